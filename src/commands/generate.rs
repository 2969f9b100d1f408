//! `freeze generate`: man pages, and completions for bash, fish and zsh, where a system looks for them below
//! its `share` folder. They say what `--help` says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;

use super::say;
use crate::exit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where to: a folder such as /usr/local/share, created if it is missing
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Where each shell looks for the completions of `freeze`.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/freeze"),
    (Shell::Fish, "fish/vendor_completions.d/freeze.fish"),
    (Shell::Zsh, "zsh/site-functions/_freeze"),
];

pub fn main(arguments: &Arguments, freeze: Command) -> u8 {
    match generate(&arguments.folder, freeze) {
        Ok(()) => exit::OK,
        Err(error) => {
            say(&format!(
                "cannot write below {} ({error}). Choose a folder that you can write to",
                arguments.folder.display()
            ));
            exit::FAILED
        }
    }
}

fn generate(folder: &Path, mut freeze: Command) -> io::Result<()> {
    for (shell, file) in COMPLETIONS {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut freeze, "freeze", &mut script);
        write(&folder.join(file), &script)?;
    }
    // Gives the verbs the names of their own pages: freeze-run(1).
    freeze.build();
    for command in std::iter::once(&freeze)
        .chain(freeze.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help"))
    {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        let mut page = Vec::new();
        let source = format!("freeze {}", env!("CARGO_PKG_VERSION"));
        clap_mangen::Man::new(command.clone()).manual("freeze").source(source).render(&mut page)?;
        write(&folder.join(format!("man/man1/{name}.1")), &page)?;
    }
    Ok(())
}

fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, bytes)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::commands::Cli;

    #[test]
    fn every_verb_has_a_man_page_and_completions() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path(), Cli::command()).unwrap();
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        for verb in ["run", "checkpoint", "migrate", "generate"] {
            assert!(read(&format!("man/man1/freeze-{verb}.1")).contains(&format!("freeze {verb}")), "{verb}");
            for (shell, file) in COMPLETIONS {
                assert!(read(file).contains(verb), "{shell} does not complete {verb}");
            }
        }
        assert!(!folder.path().join("man/man1/freeze-worker.1").exists(), "worker is freeze's own");
    }

    #[test]
    fn a_folder_that_cannot_be_written_fails() {
        assert!(generate(Path::new("/proc/version"), Cli::command()).is_err());
    }
}
