//! Makes a new scenario file a reason to build again.

fn main() {
    println!("cargo::rerun-if-changed=.");
}
