# shellcheck shell=bash
# A toolchain that compiles Rust and C for FreeBSD on a bare Debian 12, from package registries alone. To be sourced
# by a script that has `set -euo pipefail`.
#
# Each step does nothing when its result is in the cache:
#   1. need_packages   Debian's Rust, of one version with the source of its standard library
#   2. need_ziglang    `ziglang` from PyPI: clang, a linker, FreeBSD's headers and link stubs
#   3. need_wrappers   `freebsd-cc` and `freebsd-ar`, in the form rustc and the `cc` crate call them
#   4. need_std        Rust's standard library for FreeBSD, in a sysroot
# `need_toolchain` takes all four; then `freebsd_cargo COMMAND ARGS..` is a cargo whose target is FreeBSD.
#
# Everything stands in one folder of the cache. What depends on a version has the version in its name, and is built
# under another name and then renamed: a name that exists is complete, also after an interruption.

RUST_TARGET=x86_64-unknown-freebsd
# The oldest release that the binaries run on. A newer one would bring in symbols (FBSD_1.8) that 14.x lacks.
FREEBSD_RELEASE=14.0
# The version that compiles and links, with 15.x headers. Older ones lose the ELF note that says "FreeBSD" when
# unused sections are dropped.
ZIGLANG=0.17.1
# The version that still ships 14.x headers.
ZIGLANG_14=0.15.2

CULVERT_CACHE=$(realpath -m -- "${CULVERT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/culvert}")
toolchain=$CULVERT_CACHE/freebsd
freebsd_target_dir=$CULVERT_CACHE/target-freebsd
# zig keeps its compiled runtime objects here.
export ZIG_GLOBAL_CACHE_DIR=$toolchain/zig-cache
export ZIG_LOCAL_CACHE_DIR=$toolchain/zig-cache

# Progress is all that goes to standard output.
say() { printf '%s\n' "$*"; }

# Two runs that share a cache wait for each other. The lock falls with the process that holds it.
lock_toolchain() {
    mkdir -p "$toolchain"
    exec {toolchain_lock}>"$toolchain/lock"
    if ! flock --nonblock "$toolchain_lock"; then
        say "waiting for another run that uses $toolchain"
        flock "$toolchain_lock"
    fi
}

unlock_toolchain() { exec {toolchain_lock}>&-; }

# new_dir NAME: an empty folder under the name that NAME has while it is being built.
new_dir() {
    rm -rf "$toolchain/$1.partial"
    mkdir -p "$toolchain/$1.partial"
    printf '%s\n' "$toolchain/$1.partial"
}

# finish_dir NAME: gives a folder from `new_dir` its final name.
finish_dir() { mv -T "$toolchain/$1.partial" "$toolchain/$1"; }

# remove_others PREFIX VERSION..: the folders PREFIX-* of any other version, and what an interrupted run left of them.
remove_others() {
    local dir version
    for dir in "$toolchain/$1"-*; do
        for version in "${@:2}"; do
            [[ $dir == "$toolchain/$1-$version" ]] && continue 2
        done
        rm -rf "$dir"
    done
}

installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

need_packages() {
    local package missing=()
    for package in rustc-web cargo-web rust-web-src gcc libc6-dev binutils file python3-venv; do
        installed "$package" || missing+=("$package")
    done
    if ((${#missing[@]} > 0)); then
        say "installing ${missing[*]}"
        local as_root=()
        ((EUID == 0)) || as_root=(sudo)
        "${as_root[@]}" apt-get update -qq >&2
        # `rustc-web` conflicts with Debian's `rustup`; removing that is the user's decision.
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --no-install-recommends --no-remove "${missing[@]}" >&2
    fi
    local compiler_version source_version
    compiler_version=$(dpkg-query -W -f '${Version}' rustc-web)
    source_version=$(dpkg-query -W -f '${Version}' rust-web-src)
    if [[ $compiler_version != "$source_version" ]]; then
        say "rustc-web is $compiler_version but rust-web-src is $source_version: upgrade both"
        return 1
    fi
}

# need_ziglang VERSION
need_ziglang() {
    local name=ziglang-$1 dir
    if [[ -d $toolchain/$name ]]; then return; fi
    say "fetching ziglang $1"
    dir=$(new_dir "$name")
    /usr/bin/python3 -m venv "$dir"
    "$dir/bin/python" -m pip install --quiet "ziglang==$1" >&2
    finish_dir "$name"
}

# zig VERSION ARGS..
zig() { "$toolchain/ziglang-$1/bin/python" -m ziglang "${@:2}"; }

# write_program FILE: standard input becomes an executable FILE, replaced only when its text differs.
write_program() {
    cat >"$1.partial"
    chmod +x "$1.partial"
    if cmp --silent "$1.partial" "$1"; then rm "$1.partial"; else mv "$1.partial" "$1"; fi
}

# The wrappers keep one path for every version of what they call: cargo rebuilds everything when it changes. They are
# not called `*-ld`, from which rustc would conclude that they take the linker's own arguments.
need_wrappers() {
    mkdir -p "$toolchain/bin"
    local compiler
    compiler=$(printf '%q' "$("$toolchain/ziglang-$ZIGLANG/bin/python" -c \
        'import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), "zig"))')")
    write_program "$toolchain/bin/freebsd-cc" <<WRAPPER
#!/usr/bin/env bash
# C compiler and linker for FreeBSD. \`--target\` would contradict ours; the libraries left out have no stubs, and
# nothing calls them: the \`libc\` crate names them only for functions that Culvert does not use.
arguments=()
for argument in "\$@"; do
    case \$argument in
    --target=* | -lkvm | -lmemstat | -lprocstat | -ldevstat) ;;
    *) arguments+=("\$argument") ;;
    esac
done
exec $compiler cc -target x86_64-freebsd.$FREEBSD_RELEASE "\${arguments[@]}"
WRAPPER
    write_program "$toolchain/bin/freebsd-ar" <<WRAPPER
#!/usr/bin/env bash
exec $compiler ar "\$@"
WRAPPER
}

# The environment in which cargo compiles with Debian's rustc, and with the wrappers for FreeBSD. Flags that the
# caller has set for his own compiler do not apply.
freebsd_environment() {
    unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET RUSTC_WRAPPER \
        RUSTC_WORKSPACE_WRAPPER RUSTUP_TOOLCHAIN
    # For subcommands, which cargo looks up by their names: another toolchain's `cargo-clippy` cannot read this std.
    export PATH=/usr/bin:$PATH
    export RUSTC=/usr/bin/rustc
    export CC_x86_64_unknown_freebsd=$toolchain/bin/freebsd-cc
    export AR_x86_64_unknown_freebsd=$toolchain/bin/freebsd-ar
    export CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_LINKER=$toolchain/bin/freebsd-cc
}

# What the contents of the sysroot depend on. Whoever changes the recipe in `need_std` removes the old result by hand.
sysroot_version() {
    printf '%s-ziglang-%s-freebsd-%s\n' "$(dpkg-query -W -f '${Version}' rustc-web)" "$ZIGLANG" "$FREEBSD_RELEASE"
}

need_std() {
    local version name dir libraries
    version=$(sysroot_version)
    name=sysroot-$version
    if [[ -d $toolchain/$name ]]; then return; fi
    say "building Rust's standard library for $RUST_TARGET (a few minutes)"
    dir=$(new_dir "$name")
    mkdir -p "$dir/build/src"
    printf '[package]\nname = "nothing"\nedition = "2024"\n[workspace]\n' >"$dir/build/Cargo.toml"
    printf '#![no_std]\n' >"$dir/build/src/lib.rs"
    (
        freebsd_environment
        cd "$dir/build" || exit
        # Building std is not a stable feature of cargo; the first variable lets a stable compiler do it.
        RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$dir/build/target nice /usr/bin/cargo build --quiet --release \
            -Zbuild-std=std,panic_abort,panic_unwind,proc_macro,test --target "$RUST_TARGET" >&2
    )
    libraries=$dir/lib/rustlib/$RUST_TARGET/lib
    mkdir -p "$libraries"
    cp "$dir/build/target/$RUST_TARGET/release/deps/"*.rlib "$libraries"
    rm "$libraries"/libnothing-*.rlib
    rm -rf "$dir/build"
    finish_dir "$name"
    remove_others sysroot "$version"
}

# The four steps. Other runs that share the cache wait meanwhile.
need_toolchain() {
    need_packages
    lock_toolchain
    need_ziglang "$ZIGLANG"
    need_ziglang "$ZIGLANG_14"
    remove_others ziglang "$ZIGLANG" "$ZIGLANG_14"
    need_wrappers
    need_std
    unlock_toolchain
}

# debian_cargo ARGS..: Debian's cargo and rustc for this machine, in a target folder that the machine's own cargo, if it has
# another, does not use.
debian_cargo() {
    (
        freebsd_environment
        CARGO_TARGET_DIR=$freebsd_target_dir nice /usr/bin/cargo "$@"
    )
}

# freebsd_cargo COMMAND ARGS..: the same, for FreeBSD.
freebsd_cargo() {
    CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_RUSTFLAGS=--sysroot=$toolchain/sysroot-$(sysroot_version) \
        debian_cargo "$1" --target "$RUST_TARGET" "${@:2}"
}
