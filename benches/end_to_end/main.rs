//! One push, end to end, three ways in one run: to a plain bare repository, to one whose post-receive hook pushes on to
//! two mirrors, and to a site of a Refrain with three. Interleaved, so that the machine's noise hits all alike.
//!
//! Prints a table, and with `--json FILE` writes the same numbers. Measures and never judges: the aims are told beside
//! the figures. The program plays the daemon too: called as `serve` or `hook` it is `refrain`.

mod arms;
mod figures;
mod setup;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use arms::Arm;
use figures::Figures;

struct Args {
    pushes: usize,
    refs: Vec<usize>,
    json: Option<PathBuf>,
}

fn main() -> Result<std::process::ExitCode> {
    if std::env::args().nth(1).is_some_and(|word| ["serve", "hook", "repo"].contains(&word.as_str())) {
        return Ok(std::process::ExitCode::from(refrain::cli::run()));
    }
    let args = args()?;
    let mut all = Vec::new();
    for refs in &args.refs {
        let figures = measure(*refs, args.pushes).with_context(|| format!("at {refs} refs"))?;
        println!("{refs} refs, {} pushes each, interleaved", args.pushes);
        println!("{}", figures.table());
        println!("{}\n", figures.summary());
        all.push(figures.json(*refs, args.pushes));
    }
    let all = serde_json::Value::from(all);
    match args.json {
        Some(path) => std::fs::write(&path, format!("{all:#}\n")).with_context(|| format!("{}", path.display()))?,
        None => println!("{all}"),
    }
    Ok(std::process::ExitCode::SUCCESS)
}

fn args() -> Result<Args> {
    let mut args = Args { pushes: 40, refs: vec![100, 20_000], json: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            // Cargo says this to every benchmark.
            "--bench" => {}
            "--pushes" => args.pushes = value()?.parse().context("--pushes takes a number")?,
            "--refs" => {
                let numbers = value()?;
                let numbers: Result<_, _> = numbers.split(',').map(str::parse).collect();
                args.refs = numbers.context("--refs takes numbers, as in 100,20000")?;
            }
            "--json" => args.json = Some(value()?.into()),
            other => bail!("{other:?} is not known; there are --pushes N, --refs A,B and --json FILE"),
        }
    }
    Ok(args)
}

fn measure(refs: usize, pushes: usize) -> Result<Figures> {
    let dir = tempfile::Builder::new().prefix("refrain-bench-").tempdir()?;
    let seed = setup::seed(dir.path(), refs)?;
    let mut arms = [
        Arm::plain(dir.path(), &seed)?,
        Arm::fan_out(dir.path(), &seed)?,
        Arm::refrain(dir.path(), &seed).context("the daemon")?,
    ];
    let mut figures = Figures::default();
    // The first pushes pay for cold caches, in all three.
    for round in 0..pushes + 3 {
        let fsync = setup::fsync(dir.path())?;
        for turn in 0..arms.len() {
            let at = (round + turn) % arms.len();
            let push = arms[at].push(round)?;
            if round >= 3 {
                figures.add(at, push);
            }
        }
        if round >= 3 {
            figures.fsync.push(fsync);
        }
    }
    Ok(figures)
}
