#!/usr/bin/env bash
# Installs what a bare Debian 12 lacks, as root or through sudo. What is there is left alone,
# so a second run is quick and needs no network.
#
#   setup.sh rust    a C compiler and make, for building
#   setup.sh base    that, Postgres, and the ClickHouse engine (what `make demo` needs)
#   setup.sh all     that, a JDK, Maven and Kafka's jars (what `make demo LOG=kafka` and `make test` need),
#                    and promtool, which checks the alerts
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
what=${1:-base}

say() { printf '── setup: %s\n' "$*"; }

# program or file that shows the package is there | package
base_packages=(
  "cc|gcc" "c++|g++" "make|make" "perl|perl-base" "git|git" "tar|tar" "setpriv|util-linux"
)
[ "$what" = rust ] || base_packages+=("/usr/lib/postgresql|postgresql" "psql|postgresql-client")
[ "$what" = rust ] || [ -s "${XDG_CACHE_HOME:-$HOME/.cache}/weir/chdb/26.7.3/libchdb.so" ] || [ -n "${WEIR_LIBCHDB:-}" ] ||
  base_packages+=("npm|npm")
[ "$what" != all ] ||
  base_packages+=("java|openjdk-17-jdk-headless" "mvn|maven" "promtool|prometheus")

missing=()
for entry in "${base_packages[@]}"; do
  probe=${entry%%|*} package=${entry##*|}
  case $probe in
    /*) [ -e "$probe" ] || missing+=("$package") ;;
    *) command -v "$probe" > /dev/null 2>&1 || missing+=("$package") ;;
  esac
done

if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get > /dev/null || { say "please install: ${missing[*]}"; exit 1; }
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || { say "as root, please: apt-get install ${missing[*]}"; exit 1; }
    as_root=(sudo)
  fi
  say "installing Debian packages: ${missing[*]}"
  # Of the package prometheus only promtool is wanted: its service is not to run.
  quiet=()
  [[ " ${missing[*]} " != *" prometheus "* ]] || [ ! -d /run/systemd/system ] || quiet=(prometheus.service)
  [ ${#quiet[@]} = 0 ] || "${as_root[@]}" systemctl mask --runtime --quiet "${quiet[@]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  if [ ${#quiet[@]} -gt 0 ]; then
    "${as_root[@]}" systemctl unmask --runtime --quiet "${quiet[@]}"
    "${as_root[@]}" systemctl disable --quiet "${quiet[@]}"
  fi
fi

if ! command -v cargo > /dev/null; then
  say "there is no Rust toolchain: install Rust 1.94 or newer"
  exit 1
fi
[ "$what" = rust ] && exit 0
"$here/chdb.sh"
[ "$what" != all ] || "$here/kafka.sh" fetch
