#!/usr/bin/env bash
# Fetches the analytics engine's library, libchdb.so (ClickHouse 26.7 as a library, Apache-2.0),
# into the cache where weir looks for it. Needs no network when it is there already.
set -euo pipefail

version=26.7.3
package=@chdb/lib-linux-x64-gnu@26.7.3-stable.1
sha256=36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5

directory=${XDG_CACHE_HOME:-$HOME/.cache}/weir/chdb/$version
library=$directory/libchdb.so

if [ -s "$library" ]; then
    echo "analytics engine: $library"
    exit 0
fi
if [ "$(uname -sm)" != "Linux x86_64" ] || ! getconf GNU_LIBC_VERSION >/dev/null 2>&1; then
    echo "analytics engine: there is no library for $(uname -sm) without glibc; set CLICKHOUSE_URL to a ClickHouse server" >&2
    exit 1
fi
if ! command -v npm >/dev/null; then
    echo "analytics engine: npm is needed to fetch $package once (apt-get install npm)" >&2
    exit 1
fi

mkdir -p "$directory"
# In the same directory: moving the file into place is then one step, seen by others as a whole or not at all.
work=$(mktemp -d "$directory/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "analytics engine: fetching $package from npm (178 MB, 566 MB unpacked) into $directory"
(cd "$work" && npm pack --silent "$package" >/dev/null)
tar -xzf "$work"/*.tgz -C "$work"
found=$(find "$work" -name libchdb.so -type f | head -n 1)
if [ -z "$found" ]; then
    echo "analytics engine: $package holds no libchdb.so" >&2
    exit 1
fi
if ! echo "$sha256  $found" | sha256sum --check --status; then
    echo "analytics engine: $package has another checksum than expected, not used" >&2
    exit 1
fi
mv "$found" "$library"
echo "analytics engine: $library"
