#!/usr/bin/env bash
# Builds the container of Containerfile, and tries it as a user would.
#
#   tools/try_container.sh podman          # or docker: from the image that Containerfile names
#   tools/try_container.sh buildah BASE    # where containers cannot be started: in a chroot, from the folder BASE, made by
#                                          # debootstrap --variant=minbase --include=python3-venv,ca-certificates bookworm BASE
#
# BUILD_OPTIONS has more options of the build, such as --volume /etc/ssl/certs:/etc/ssl/certs:ro
set -euo pipefail
cd "$(dirname "$0")/.."
engine=${1:?podman, docker or buildah} base=${2:-} port=${PORT:-18000}
work=$(mktemp -d)
mkdir "$work/photos"
cp tests/fixtures/photo.png "$work/photos/"
chmod -R a+rX "$work"

if [ "$engine" = buildah ]; then
  export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
  empty=$(buildah from scratch)
  buildah add --quiet "$empty" "${base:?a folder with Debian}" / >/dev/null
  buildah commit --quiet "$empty" localhost/car-base >/dev/null
  # shellcheck disable=SC2086 # several options
  buildah build --quiet --format docker --build-arg BASE=localhost/car-base ${BUILD_OPTIONS:-} --tag car-tried . >/dev/null
  container=$(buildah from localhost/car-tried)
  inside() { buildah run "$container" -- "$@"; }
  buildah run --volume "$work/photos:/photos:ro" "$container" -- car serve /photos --port "$port" >"$work/log" 2>&1 &
  stop() { kill "$!" 2>/dev/null && wait "$!" || true; buildah rm "$container" "$empty" >/dev/null; }
else
  # shellcheck disable=SC2086 # several options
  "$engine" build ${BUILD_OPTIONS:-} --file Containerfile --tag car-tried .
  container=$("$engine" run --detach --read-only --tmpfs /home/car:uid=10001 --publish "127.0.0.1:$port:8000" \
    --volume "$work/photos:/photos:ro" car-tried)
  inside() { "$engine" exec "$container" "$@"; }
  stop() { "$engine" rm --force "$container" >/dev/null; }
fi
trap 'stop; rm -rf "$work"' EXIT

address=http://127.0.0.1:$port
curl --silent --show-error --fail --retry 60 --retry-all-errors --retry-delay 1 "$address/healthz" >"$work/health" 2>/dev/null
curl --silent --show-error --fail "$address/small/photo.png?scale=4" --output "$work/small.png"
curl --silent --show-error --fail --data-binary "@$work/small.png" "$address/v1/upscale" --output "$work/large.png"
inside python -c "
import importlib.util, os
assert os.getuid() == 10001, os.getuid()
assert importlib.util.find_spec('torch') is None
import car; print('car', car.__version__, 'as user', os.getuid(), 'without PyTorch')"
inside du -sm /opt/car
size() { od --address-radix=n --skip-bytes=16 --read-bytes=8 --endian=big --format=u4 "$1"; } # of a PNG file
echo "shrunk to$(size "$work/small.png"), restored to$(size "$work/large.png")"
