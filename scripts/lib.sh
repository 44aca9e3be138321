# Shared by the scripts beside it; sourced, not run.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# The target triple cargo builds for here, such as x86_64-unknown-linux-gnu.
host_triple() { rustc -vV | sed -n 's/^host: //p'; }

# Installs the Debian packages named that are missing.
need_packages() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || die "these packages are missing and only root can install them: ${missing[*]}"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

need_rust() {
    command -v cargo >/dev/null || die "cargo is not on PATH; install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -1) or newer from https://rustup.rs"
}

# What building takes: a C compiler for SQLite, the linker, and static seccomp.
need_build() {
    need_rust
    need_packages build-essential libseccomp-dev lld pkg-config
}

# Builds the static release binary; prints its path.
build_release() {
    local triple
    triple=$(host_triple)
    (
        cd "$root"
        # lld, because the mold of Debian 12 links static programs that crash at their
        # start. Identical functions, of which generic code has many, are folded, and tables
        # for unwinding are left out: a panic aborts. A separate --target keeps the flags
        # off build scripts and procedural macros.
        RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static -C link-arg=-fuse-ld=lld -C link-arg=-Wl,--icf=all -C force-unwind-tables=no" \
            LIBSECCOMP_LINK_TYPE=static LIBSECCOMP_LIB_PATH=$(dirname "$(gcc -print-file-name=libseccomp.a)") \
            cargo build --release --locked --target "$triple" --bin karve >&2
    )
    echo "${CARGO_TARGET_DIR:-$root/target}/$triple/release/karve"
}
