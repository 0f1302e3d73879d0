//! The command line: parses, runs one command, turns its outcome into the promised exit code.

mod conf;
mod demo;
mod hooks;
mod link;
mod out;
mod records;
mod refold;
mod repo;
mod serve;
mod status;
mod verify;
mod workbench;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Bad configuration, or one that differs from the log's own.
const BAD_CONFIG: u8 = 78;
/// Locked by another process, or fenced.
const TRY_LATER: u8 = 75;
/// The daemon or a site cannot be reached.
const UNREACHABLE: u8 = 13;
/// What was named is not there.
const NOT_FOUND: u8 = 10;

#[derive(Parser)]
#[command(name = "refrain", version = version(), about = "Keeps Git repositories identical on many sites")]
struct Args {
    /// Configuration file [default: $REFRAIN_CONFIG, ./refrain.toml, /etc/refrain/refrain.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print without colours
    #[arg(long, global = true)]
    no_color: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start three sites, push to each with real Git, and compare them
    Demo(demo::Demo),
    /// Run the sites of the configuration file
    Serve {
        /// Start although another instance of a site was heard
        #[arg(long)]
        take_over: bool,
    },
    /// What Git calls; talks to the daemon of the site
    Hook {
        #[command(subcommand)]
        which: Hook,
    },
    /// The hook in repositories that are there
    Hooks {
        #[command(subcommand)]
        what: hooks::Hooks,
    },
    /// Repositories, at every site
    Repo {
        #[command(subcommand)]
        what: repo::Repo,
    },
    /// Show how far every site is
    Status,
    /// Wait until every active site has applied what the log holds now
    Wait(status::Wait),
    /// Compare what Git shows at every site with the tables
    Verify(verify::Verify),
    /// The log's records
    Log {
        #[command(subcommand)]
        what: records::Log,
    },
    /// The configuration
    Config {
        #[command(subcommand)]
        what: conf::Config,
    },
}

#[derive(Subcommand)]
enum Hook {
    /// Hands a push to the daemon
    ProcReceive {
        /// The site's socket
        #[arg(long)]
        socket: PathBuf,
    },
}

fn version() -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| {
        let format = refrain_core::record::ENVELOPE;
        let commit = option_env!("REFRAIN_COMMIT").unwrap_or("unknown");
        // Cargo unites the features of all that it builds at once, and the simulator asks for them.
        let bugs = if refrain_core::mutant::ARE_KNOWN {
            ", built with the simulator's known bugs: for tests only"
        } else {
            ""
        };
        format!("{} (commit {commit}, record format {format}){bugs}", env!("CARGO_PKG_VERSION"))
    })
}

/// Runs the program; gives the exit code.
pub fn run() -> u8 {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(why) => {
            // Help and version are no errors, and a closed terminal is none of ours.
            let _ = why.print();
            return u8::try_from(why.exit_code()).unwrap_or(2);
        }
    };
    if let Command::Hook { which: Hook::ProcReceive { socket } } = &args.command {
        return u8::try_from(crate::hook_wire::run_proc_receive(socket)).unwrap_or(1);
    }
    let colour = std::io::stderr().is_terminal() && !args.no_color && std::env::var_os("NO_COLOR").is_none();
    let quiet = matches!(args.command, Command::Demo(_));
    let level = std::env::var("REFRAIN_LOG").unwrap_or_else(|_| if quiet { "warn" } else { "info" }.into());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .init();
    let config = args.config.as_deref();
    let outcome = match args.command {
        Command::Demo(demo) => demo.run(args.json),
        Command::Serve { take_over } => serve::run(config, take_over),
        Command::Hooks { what } => hooks::run(config, args.json, &what),
        Command::Repo { what } => repo::run(config, args.json, what),
        Command::Status => status::status(config, args.json),
        Command::Wait(wait) => wait.run(config, args.json),
        Command::Verify(verify) => verify.run(config, args.json),
        Command::Log { what } => what.run(config),
        Command::Config { what } => conf::run(config, args.json, &what),
        Command::Hook { .. } => Ok(0),
    };
    match outcome {
        Ok(code) => code,
        Err(why) => {
            out::note(format_args!("{why:#}"));
            code_of(&why)
        }
    }
}

fn code_of(why: &anyhow::Error) -> u8 {
    let locked =
        |cause: &(dyn std::error::Error + 'static)| cause.is::<crate::driver::Locked>() || crate::log::is_locked(cause);
    if why.chain().any(locked) {
        TRY_LATER
    } else if why.is::<BadConfig>() {
        BAD_CONFIG
    } else if why.is::<Unreachable>() {
        UNREACHABLE
    } else if why.is::<NotFound>() {
        NOT_FOUND
    } else {
        1
    }
}

/// Seconds, fractions allowed.
fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    std::time::Duration::try_from_secs_f64(number).map_err(|why| why.to_string())
}

/// What was named is not there.
#[derive(Debug)]
struct NotFound(String);

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotFound {}

/// The configuration is at fault.
#[derive(Debug)]
struct BadConfig;

impl std::fmt::Display for BadConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bad configuration")
    }
}

/// No daemon answers.
#[derive(Debug)]
struct Unreachable(String);

impl std::error::Error for Unreachable {}

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
