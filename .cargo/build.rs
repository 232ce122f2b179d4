//! Keeps the sections that hold pgrx's SQL entities in the shared library.
//!
//! `cargo pgrx` would pass the same flag through RUSTFLAGS, which rebuilds every dependency a second
//! time; here it reaches the shared library alone (CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1 turns
//! the other way off). Test binaries must not get it: they rely on the linker dropping what needs a server.
fn main() {
    println!("cargo::rerun-if-changed=.cargo/build.rs");
    println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
}
