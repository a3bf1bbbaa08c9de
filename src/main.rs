//! The binary: reads the command line and hands each command to its part.

use clap::Parser;
use mendblock::admin::exit;
use mendblock::cli::{Cli, Command, ConfigurationFile, run};
use mendblock::{demo, node, offline};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // The text is help or a usage error; if it cannot be printed, the code still tells them apart.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                exit::USAGE
            } else {
                exit::DONE
            });
        }
    };
    match execute(&cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("mendblock: {error}");
            ExitCode::from(exit::USAGE)
        }
    }
}

fn execute(command: &Command) -> Result<u8, Box<dyn std::error::Error>> {
    match command {
        Command::Admin(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(run::run(command, &mut std::io::stdout(), &mut std::io::stderr())))
        }
        Command::CheckConfig(file) => check_configuration(file),
        Command::Offline(command) => Ok(offline::run(
            command,
            &mut std::io::stdout().lock(),
            &mut std::io::stderr(),
        )),
        Command::Demo(arguments) => Ok(demo::run(arguments)),
        Command::Node(arguments) => {
            demo::end_with_parent();
            Ok(node::run(arguments))
        }
    }
}

fn check_configuration(file: &ConfigurationFile) -> Result<u8, Box<dyn std::error::Error>> {
    let configuration = match file.load() {
        Ok(configuration) => configuration,
        Err(error) => {
            // Each line begins with the file's name, as editors and people look for it.
            eprintln!("{error}");
            return Ok(exit::USAGE);
        }
    };
    let volumes = configuration.volumes.len();
    println!(
        "{}: node {:?} with {volumes} volume(s), no mistakes found",
        file.configuration.display(),
        configuration.node.name
    );
    Ok(exit::DONE)
}
