//! Completions and the manual, made from the command line itself.

use std::{fs, path::Path};

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{args::Cli, problem::Problem, terminal};

pub(crate) fn completions(shell: Shell) -> Result<(), Problem> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "buttress", &mut script);
    terminal::print_bytes(&script)
}

pub(crate) fn man(folder: Option<&Path>) -> Result<(), Problem> {
    let Some(folder) = folder else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page)?;
        return terminal::print_bytes(&page);
    };
    let name = |error| Problem::Failed(format!("--dir {}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(name)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(name)
}
