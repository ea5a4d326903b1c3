//! Writes the variables of a new machine: `cargo run -p latchkey-images --example make-variables -- CACHE TEMPLATE OUT`.

use latchkey_images::{Cache, FirmwareCas, Pki, Silent, variables};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [cache, template, out] = args.as_slice() else { return Err("three arguments are needed".into()) };
    let cache = Cache::at(cache)?;
    let (pki, cas) = (Pki::ensure(&cache, &Silent)?, FirmwareCas::ensure(&cache, &Silent)?);
    std::fs::write(out, variables(&pki, &cas, &std::fs::read(template)?)?)?;
    Ok(())
}
