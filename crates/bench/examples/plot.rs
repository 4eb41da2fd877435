//! Draws a result again, on any machine: `cargo run -p hyperfork-bench --example
//! plot -- RESULT.json DIRECTORY`.

use hyperfork_bench::cow::CowPlan;
use hyperfork_bench::density::DensityPlan;
use hyperfork_bench::fork::ForkPlan;
use hyperfork_bench::journal::read;
use hyperfork_bench::plot::{Figure, plot};
use hyperfork_bench::soak::SoakPlan;
use hyperfork_bench::{BenchError, Plan};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [result, directory] = &arguments[..] else {
        return Err("usage: plot RESULT.json DIRECTORY".into());
    };
    let (result, directory) = (Path::new(result), Path::new(directory));
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(result)?)?;
    match json["bench"].as_str() {
        Some("fork") => draw::<ForkPlan>(result, "fork", directory)?,
        Some("boot") => draw::<ForkPlan>(result, "boot", directory)?,
        Some("cow") => draw::<CowPlan>(result, "cow", directory)?,
        Some("density") => draw::<DensityPlan>(result, "density", directory)?,
        Some("soak") => draw::<SoakPlan>(result, "soak", directory)?,
        _ => return Err("this is no result of `hyperfork bench`".into()),
    }
    Ok(())
}

fn draw<P: Plan<Row: Figure>>(
    result: &Path,
    bench: &'static str,
    directory: &Path,
) -> Result<(), BenchError> {
    for path in plot(&read::<P>(result, bench)?, directory)? {
        println!("{}", path.display());
    }
    Ok(())
}
