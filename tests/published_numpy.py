"""The published networks in NumPy and float64, written from their description, without the package."""

import numpy as np

MEAN = np.array([0.4488, 0.4371, 0.4040]).reshape(3, 1, 1)


def conv(x, weight, bias, padding=0, mode="constant"):
    """Correlate ``[C, H, W]`` with ``[O, C, k, k]``."""
    if padding:
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)), mode=mode)
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows, weight, optimize=True) + bias[:, None, None]


def shuffle(x, factor):
    c, h, w = x.shape
    out = np.zeros((c // factor**2, h * factor, w * factor))
    for channel in range(c):
        plane, place = divmod(channel, factor**2)
        out[plane, place // factor :: factor, place % factor :: factor] = x[channel]
    return out


def unshuffle(x, factor):
    c, h, w = x.shape
    out = np.zeros((c * factor**2, h // factor, w // factor))
    for channel in range(len(out)):
        plane, place = divmod(channel, factor**2)
        out[channel] = x[plane, place // factor :: factor, place % factor :: factor]
    return out


class Networks:
    """Both halves, from state dicts of arrays by their published names."""

    def __init__(self, kgn, usn, scale):
        self.kgn = {name: np.asarray(value, np.float64) for name, value in kgn.items()}
        self.usn = {name: np.asarray(value, np.float64) for name, value in usn.items()}
        self.scale = scale

    def _k(self, x, name, padding=1):
        return conv(x, self.kgn[f"{name}.weight"], self.kgn[f"{name}.bias"], padding, "reflect")

    def _u(self, x, name, padding=1):
        return conv(x, self.usn[f"{name}.weight"], self.usn[f"{name}.bias"], padding)

    def kernels_and_offsets(self, hr):
        """Return kernels, offsets_h and offsets_v ``[k*k, H/s, W/s]`` of ``[3, H, W]``."""

        def leaky(x):
            return np.where(x < 0, 0.2 * x, x)

        x = leaky(self._k(self._k(hr, "sub_mean", 0), "ds_1.1", 2))
        for name in ("ds_2", "ds_4"):
            x = self._k(unshuffle(x, 2), f"{name}.downsample.1", 0)
        start = x
        for n in range(5):
            x = x + self._k(leaky(self._k(x, f"res_4.{n}.transform.1")), f"res_4.{n}.transform.4")
        x = self._k(unshuffle(start + x, 2), "ds_8.downsample.1", 0)

        def trunk(name):
            y = x
            for n in (1, 4, 7):
                y = np.maximum(self._k(y, f"{name}.{n}"), 0)
            y = shuffle(self._k(y, f"{name}.9.upsample.0", 0), 8 // self.scale)
            return np.maximum(self._k(y, f"{name}.11"), 0)

        def generation(y, name):
            return self._k(np.maximum(self._k(y, f"{name}.1"), 0), f"{name}.4")

        kernels = np.clip(generation(trunk("kernels_trunk"), "kernels_weight"), 1e-6, 1)
        offsets = trunk("offsets_trunk")
        return (
            kernels / kernels.sum(axis=0),
            np.tanh(generation(offsets, "offsets_h_generation")),
            np.tanh(generation(offsets, "offsets_v_generation")),
        )

    def upscale(self, lr):
        """Return ``[3, s*h, s*w]`` of ``[3, h, w]``."""
        head = self._u(self._u(lr, "sub_mean", 0), "head.0")
        x, block = head, 0
        while f"body.{block}.body.0.weight" in self.usn:
            inner = np.maximum(self._u(x, f"body.{block}.body.0"), 0)
            x = x + 0.1 * self._u(inner, f"body.{block}.body.2")
            block += 1
        x = head + self._u(x, f"body.{block}")
        for n in range(self.scale.bit_length() - 1):
            x = shuffle(self._u(x, f"tail.0.{2 * n}"), 2)
        return self._u(self._u(x, "tail.1"), "add_mean", 0)


def resample(image, kernels, offsets_h, offsets_v, scale):
    """Follow the published formula of adaptive resampling, one sample after the other; ``[C, H, W]`` in."""
    side = round(len(kernels) ** 0.5)
    padded = np.pad(image, ((0, 0), (side // 2,) * 2, (side // 2,) * 2), mode="reflect")
    (_, height, width), (_, bottom, right) = image.shape, padded.shape
    out = np.zeros((len(image), *kernels.shape[1:]))
    for y, x in np.ndindex(*kernels.shape[1:]):
        for tap in range(side**2):
            i, j = divmod(tap, side)
            px = (x + 0.5) * width / kernels.shape[2] + j + scale * offsets_h[tap, y, x] - 0.5
            py = (y + 0.5) * height / kernels.shape[1] + i + scale * offsets_v[tap, y, x] - 0.5
            a, b = px - np.floor(px), py - np.floor(py)
            x0, y0 = (min(max(int(np.floor(p)), 0), n - 1) for p, n in ((px, right), (py, bottom)))
            x1, y1 = min(x0 + 1, right - 1), min(y0 + 1, bottom - 1)
            upper = (1 - a) * padded[:, y0, x0] + a * padded[:, y0, x1]
            lower = (1 - a) * padded[:, y1, x0] + a * padded[:, y1, x1]
            out[:, y, x] += kernels[tap, y, x] * ((1 - b) * upper + b * lower)
    return out
