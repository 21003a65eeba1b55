//! The program: reads the command line, runs the command, says in one line what went wrong.

mod commands;

use std::process::ExitCode;

use clap::Parser as _;

use commands::Cli;

fn main() -> ExitCode {
    // Before libpq uses it: so it is not taken down at the end beneath threads that close their connections.
    openssl::init();
    let mut arguments = std::env::args_os().skip(1);
    // The server takes none of this; what reads command lines would stay in its memory for as long as it runs.
    let is_plain = match (arguments.next(), arguments.next()) {
        (None, _) => true,
        (Some(only), None) => only == "serve",
        _ => false,
    };
    let cli = match if is_plain { Ok(Cli::default()) } else { Cli::try_parse() } {
        Ok(cli) => cli,
        // Also `--help` and `--version`, which go to standard output and end in 0.
        Err(usage) => {
            drop(usage.print());
            return u8::try_from(usage.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            commands::complain(&error);
            ExitCode::FAILURE
        }
    }
}
