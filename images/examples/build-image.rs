//! Builds an image and says what it is doing: `cargo run -p latchkey-images --example build-image -- CACHE RECIPE`.

use latchkey_images::{Cache, Progress, Recipe, Stage, ensure};

struct Lines(std::time::Instant, std::sync::Mutex<String>);

impl Progress for Lines {
    fn report(&self, stage: Stage, message: &str, fraction: f64) {
        if let Ok(mut last) = self.1.lock()
            && *last != message
        {
            message.clone_into(&mut last);
            println!(
                "{:6.1}s {:3.0}% {}: {message}",
                self.0.elapsed().as_secs_f64(),
                fraction * 100.0,
                stage.word()
            );
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let cache = Cache::at(args.next().ok_or("the cache's directory is missing")?)?;
    let recipe = Recipe::named(&args.next().unwrap_or_else(|| "rlc9-uki".to_owned()))?;
    let progress = Lines(std::time::Instant::now(), std::sync::Mutex::default());
    let image = ensure(&recipe, &cache, &progress)?;
    println!("{:6.1}s {}", progress.0.elapsed().as_secs_f64(), image.path.display());
    Ok(())
}
