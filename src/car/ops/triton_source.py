"""The programs of `car.ops.triton_kernels`, in Triton's language.

The source uses only operations that every backend of Triton has (masked loads and stores, elementwise
arithmetic, sums, atomic addition), so it compiles for CUDA, ROCm and others. 16-bit values are loaded as they
are and computed in float32; float64 stays float64.

Each program computes a run of output pixels of one image. All programs share these arguments: contiguous
tensors as in `car.ops.adaptive_resample`; `whole` and `part` of both axes as in `car.ops.reference.Axis`; the
sizes of image (C, H, W) and output (h, w); K taps a side; CB channels and BLOCK pixels at once; ONCE, true if
one reflection reaches every padded pixel; REAL, the type of the arithmetic.
"""

import triton
import triton.language as tl


@triton.jit
def _unpad(index, size, ONCE: tl.constexpr):
    """Reflect an index into the image, repeatedly if the image is smaller than the padding."""
    span = size - 1
    if ONCE:
        index = tl.abs(index)
        return tl.minimum(index, 2 * span - index)
    period = tl.maximum(2 * span, 1)
    index = index % period
    index = tl.where(index < 0, index + period, index)
    return tl.minimum(index, 2 * span - index)


@triton.jit
def _neighbours(whole, part, tap, shift, size, radius, ONCE: tl.constexpr):
    """Return both neighbours of positions on one axis, as indices into the image, and the fractions."""
    position = part + shift
    floor = tl.floor(position)
    last = size + 2 * radius - 1
    first = whole + tap + floor
    # NaN fails the comparison and becomes 0, because converting it would be undefined
    first = tl.where(first > 0, first, 0.0)
    low = tl.where(first < last, first, last).to(tl.int32)
    high = tl.minimum(low + 1, last)
    return _unpad(low - radius, size, ONCE), _unpad(high - radius, size, ONCE), position - floor


@triton.jit
def _corners(
    offsets_h, offsets_v, place, inside, wx, px, wy, py, i, j, H, W, scale,
    K: tl.constexpr, ONCE: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Return the positions of the four corners of tap (i, j), and the fractions across and down."""
    across = scale * tl.load(offsets_h + place, mask=inside, other=0.0).to(REAL)
    down = scale * tl.load(offsets_v + place, mask=inside, other=0.0).to(REAL)
    x0, x1, a = _neighbours(wx, px, j, across, W, K // 2, ONCE)
    y0, y1, b = _neighbours(wy, py, i, down, H, K // 2, ONCE)
    return y0 * W + x0, y0 * W + x1, y1 * W + x0, y1 * W + x1, a, b


@triton.jit
def _start(whole_x, part_x, whole_y, part_y, h, w, BLOCK: tl.constexpr):
    """Return this program's pixels, which of them exist, and their positions over the image."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < h * w
    x, y = pixel % w, pixel // w
    wx, px = tl.load(whole_x + x, mask=inside, other=0.0), tl.load(part_x + x, mask=inside, other=0.0)
    wy, py = tl.load(whole_y + y, mask=inside, other=0.0), tl.load(part_y + y, mask=inside, other=0.0)
    return pixel, inside, wx, px, wy, py


@triton.jit
def forward(
    image, kernels, offsets_h, offsets_v, whole_x, part_x, whole_y, part_y, out, C, H, W, h, w, scale,
    K: tl.constexpr, CB: tl.constexpr, BLOCK: tl.constexpr, ONCE: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Write `out`; one program for each block of channels."""
    pixel, inside, wx, px, wy, py = _start(whole_x, part_x, whole_y, part_y, h, w, BLOCK)
    channel = (tl.program_id(1) * CB + tl.arange(0, CB))[:, None]
    n = tl.program_id(2).to(tl.int64)
    both = inside[None, :] & (channel < C)
    plane = image + (n * C + channel) * H * W
    total = tl.zeros([CB, BLOCK], REAL)
    for tap in range(K * K):
        place = (n * K * K + tap) * h * w + pixel
        tl_, tr, bl, br, a, b = _corners(
            offsets_h, offsets_v, place, inside, wx, px, wy, py, tap // K, tap % K, H, W, scale, K, ONCE, REAL
        )
        weight = tl.load(kernels + place, mask=inside, other=0.0).to(REAL)
        top_left = tl.load(plane + tl_[None, :], mask=both, other=0.0).to(REAL)
        top_right = tl.load(plane + tr[None, :], mask=both, other=0.0).to(REAL)
        bottom_left = tl.load(plane + bl[None, :], mask=both, other=0.0).to(REAL)
        bottom_right = tl.load(plane + br[None, :], mask=both, other=0.0).to(REAL)
        upper = top_left + a[None, :] * (top_right - top_left)
        lower = bottom_left + a[None, :] * (bottom_right - bottom_left)
        total += weight[None, :] * (upper + b[None, :] * (lower - upper))
    tl.store(out + (n * C + channel) * h * w + pixel[None, :], total.to(out.dtype.element_ty), mask=both)


@triton.jit
def backward_taps(
    grad, image, kernels, offsets_h, offsets_v, whole_x, part_x, whole_y, part_y,
    grad_kernels, grad_h, grad_v, C, H, W, h, w, scale,
    K: tl.constexpr, CB: tl.constexpr, BLOCK: tl.constexpr, ONCE: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Write the gradients for kernels and offsets; one program for each row of taps."""
    pixel, inside, wx, px, wy, py = _start(whole_x, part_x, whole_y, part_y, h, w, BLOCK)
    i = tl.program_id(1)
    n = tl.program_id(2).to(tl.int64)
    for j in range(K):
        place = (n * K * K + i * K + j) * h * w + pixel
        tl_, tr, bl, br, a, b = _corners(
            offsets_h, offsets_v, place, inside, wx, px, wy, py, i, j, H, W, scale, K, ONCE, REAL
        )
        # the gradient from each corner, summed over colours; all three gradients are combinations of these
        top_left = tl.zeros([BLOCK], REAL)
        top_right = tl.zeros([BLOCK], REAL)
        bottom_left = tl.zeros([BLOCK], REAL)
        bottom_right = tl.zeros([BLOCK], REAL)
        for start in range(0, C, CB):
            channel = (start + tl.arange(0, CB))[:, None]
            both = inside[None, :] & (channel < C)
            earned = tl.load(grad + (n * C + channel) * h * w + pixel[None, :], mask=both, other=0.0).to(REAL)
            plane = image + (n * C + channel) * H * W
            top_left += tl.sum(earned * tl.load(plane + tl_[None, :], mask=both, other=0.0).to(REAL), axis=0)
            top_right += tl.sum(earned * tl.load(plane + tr[None, :], mask=both, other=0.0).to(REAL), axis=0)
            bottom_left += tl.sum(
                earned * tl.load(plane + bl[None, :], mask=both, other=0.0).to(REAL), axis=0
            )
            bottom_right += tl.sum(
                earned * tl.load(plane + br[None, :], mask=both, other=0.0).to(REAL), axis=0
            )
        above, below = top_right - top_left, bottom_right - bottom_left
        upper, lower = top_left + a * above, bottom_left + a * below
        unit = scale * tl.load(kernels + place, mask=inside, other=0.0).to(REAL)
        kind = grad_kernels.dtype.element_ty
        tl.store(grad_kernels + place, (upper + b * (lower - upper)).to(kind), mask=inside)
        tl.store(grad_h + place, (unit * (above + b * (below - above))).to(kind), mask=inside)
        tl.store(grad_v + place, (unit * (lower - upper)).to(kind), mask=inside)


@triton.jit
def backward_image(
    grad, kernels, offsets_h, offsets_v, whole_x, part_x, whole_y, part_y, grad_image, C, H, W, h, w, scale,
    K: tl.constexpr, CB: tl.constexpr, BLOCK: tl.constexpr, ONCE: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Add to the gradient for the image, of type REAL; one program for each block of channels."""
    pixel, inside, wx, px, wy, py = _start(whole_x, part_x, whole_y, part_y, h, w, BLOCK)
    channel = (tl.program_id(1) * CB + tl.arange(0, CB))[:, None]
    n = tl.program_id(2).to(tl.int64)
    both = inside[None, :] & (channel < C)
    earned = tl.load(grad + (n * C + channel) * h * w + pixel[None, :], mask=both, other=0.0).to(REAL)
    plane = grad_image + (n * C + channel) * H * W
    for tap in range(K * K):
        place = (n * K * K + tap) * h * w + pixel
        tl_, tr, bl, br, a, b = _corners(
            offsets_h, offsets_v, place, inside, wx, px, wy, py, tap // K, tap % K, H, W, scale, K, ONCE, REAL
        )
        weight = tl.load(kernels + place, mask=inside, other=0.0).to(REAL)
        right, lower = weight * a, weight * b
        corner = a * lower
        tl.atomic_add(plane + tl_[None, :], earned * (weight - right - lower + corner)[None, :], mask=both)
        tl.atomic_add(plane + tr[None, :], earned * (right - corner)[None, :], mask=both)
        tl.atomic_add(plane + bl[None, :], earned * (lower - corner)[None, :], mask=both)
        tl.atomic_add(plane + br[None, :], earned * corner[None, :], mask=both)
