# The image of the compose cluster, around the binary of this checkout.
#
# make_image NAME WORK   builds it; WORK is a folder for what lies about meanwhile. Exits with STAGE_SKIPPED, having said
#                        why, where it can't be built
#
# The image is the Dockerfile's `runtime` stage. Its base, debian:12-slim, is pulled where there is a registry, else
# made here: a debootstrap of the same Debian release, imported under the same name. The binary is linked against this
# machine's libc, so it must not be newer than Debian 12's; where it is, the stage `final` is built instead, from
# source.
#
# Sourced after env.sh and say.sh, in the checkout.

IMAGE_BASE=debian:12-slim
IMAGE_RELEASE=bookworm
IMAGE_RELEASE_LIBC=2.36

image_quietly() {
  local output=$1
  shift
  "$@" >"$output" 2>&1 || {
    tail -n 30 "$output" >&2
    die "FAIL $*"
  }
}

make_base_image() {
  local work=$1
  docker image inspect "$IMAGE_BASE" >/dev/null 2>&1 && return
  docker pull -q "$IMAGE_BASE" >/dev/null 2>&1 && return
  if ! command -v debootstrap >/dev/null || [ "$(id -u)" -ne 0 ]; then
    complain "SKIPPED: compose: $IMAGE_BASE can't be pulled here, and making it takes root and debootstrap"
    exit "$STAGE_SKIPPED"
  fi
  say "making $IMAGE_BASE with debootstrap, about half a minute"
  image_quietly "$work/output" debootstrap --variant=minbase "$IMAGE_RELEASE" "$work/base"
  # Package lists and caches are no use in an image.
  rm -rf "$work/base/var/lib/apt/lists/"* "$work/base/var/cache/apt/"*
  tar -C "$work/base" --numeric-owner -c . | docker import - "$IMAGE_BASE" >/dev/null || die "FAIL docker import $IMAGE_BASE"
  rm -rf "$work/base"
}

make_image() {
  local name=$1 work=$2 needed
  make_base_image "$work"
  needed=$(grep -aoE 'GLIBC_2\.[0-9]+' "$ROSTER_BIN" | sed 's/GLIBC_//' | sort -uV | tail -n 1)
  mkdir -p dist
  if [ "$(printf '%s\n%s\n' "$needed" "$IMAGE_RELEASE_LIBC" | sort -V | tail -n 1)" != "$IMAGE_RELEASE_LIBC" ]; then
    say "this binary needs glibc $needed, newer than $IMAGE_BASE's $IMAGE_RELEASE_LIBC: building from source in the image"
    image_quietly "$work/output" docker build -f cluster/Dockerfile --target final -t "$name" .
    return
  fi
  install -m 0755 "$ROSTER_BIN" dist/roster
  image_quietly "$work/output" docker build -f cluster/Dockerfile --target runtime -t "$name" .
}
