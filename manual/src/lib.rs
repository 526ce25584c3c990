//! Completions and manual pages of a program, generated from the definition of its command line.
//!
//! Every flag of a program is in its completions and its manual, because all three come from one
//! definition. Each of the programs has both commands of [`Command`], so that a package or a
//! container image needs no further files to generate them.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Arg, ArgAction};
use clap_complete::Shell;

/// What a program writes about itself.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Print a completion script for a shell.
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell that will run the script.
        shell: Shell,
    },
    /// Print the manual page, or write one for each command into a folder.
    #[command(after_help = MAN)]
    Man {
        /// The folder, such as /usr/local/share/man/man1.
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

const COMPLETIONS: &str = "\
Examples, with NAME for this program:
  NAME completions bash > ~/.local/share/bash-completion/completions/NAME
  NAME completions zsh > ~/.zfunc/_NAME          with ~/.zfunc in fpath
  NAME completions fish > ~/.config/fish/completions/NAME.fish";

const MAN: &str = "\
Examples, with NAME for this program:
  NAME man | man -l -
  sudo NAME man /usr/local/share/man/man1";

impl Command {
    /// Writes completions or manual pages of `program`. A reader that closes early (`| head`) is
    /// not an error.
    pub fn write(&self, mut program: clap::Command, out: &mut dyn Write) -> io::Result<()> {
        // Into memory first: the generators panic if the reader closes early.
        let mut text = Vec::new();
        match self {
            Self::Completions { shell } => {
                let name = program.get_name().to_owned();
                clap_complete::generate(*shell, &mut program, name, &mut text);
            }
            Self::Man { folder: None } => clap_mangen::Man::new(program).render(&mut text)?,
            Self::Man { folder: Some(folder) } => {
                std::fs::create_dir_all(folder)?;
                clap_mangen::generate_to(program, folder)?;
            }
        }
        match out.write_all(&text).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }
}

/// The help flag, which prints the full help whether it is short or long, so that neither form
/// hides anything. It replaces clap's own (`disable_help_flag`), whose short form leaves out
/// paragraphs where there are any.
pub fn help() -> Arg {
    /// After all others, as usual.
    const LAST: usize = 999;
    let flag = Arg::new("help").short('h').long("help").help("Print help");
    flag.action(ArgAction::HelpLong).global(true).display_order(LAST)
}

/// Commands of `program` whose `-h` and `--help` differ.
pub fn with_two_helps(program: &clap::Command) -> Vec<String> {
    let mut found = Vec::new();
    for path in paths(program) {
        let printed = |flag: &str| {
            let words = path.iter().map(String::as_str).chain([flag]);
            program.clone().try_get_matches_from(words).err().map(|text| text.to_string())
        };
        let (short, long) = (printed("-h"), printed("--help"));
        if short.is_none() || short != long {
            found.push(path.join(" "));
        }
    }
    found
}

/// The words that call each command of `program`, including itself.
fn paths(program: &clap::Command) -> Vec<Vec<String>> {
    let name = program.get_name().to_owned();
    let inside = program.get_subcommands().flat_map(paths);
    let inside = inside.map(|path| [vec![name.clone()], path].concat());
    std::iter::once(vec![name.clone()]).chain(inside).collect()
}

/// Commands and flags of `program` without a help text.
pub fn undocumented(program: &clap::Command) -> Vec<String> {
    let name = program.get_name();
    let mut found = Vec::new();
    if program.get_about().is_none() {
        found.push(name.to_owned());
    }
    let arguments = program.get_arguments().filter(|it| it.get_help().is_none());
    found.extend(arguments.map(|argument| format!("{name} {}", argument.get_id())));
    let shown = program.get_subcommands().filter(|it| !it.is_hide_set());
    found.extend(shown.flat_map(undocumented).map(|inside| format!("{name} {inside}")));
    found
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction};
    use clap_complete::Shell;

    use super::{Command, help, undocumented, with_two_helps};

    fn program() -> clap::Command {
        let flag = Arg::new("force").long("force").action(ArgAction::SetTrue).help("Replace them");
        let inner = clap::Command::new("run").about("Runs").arg(flag);
        clap::Command::new("program").about("A program").subcommand(inner)
    }

    fn written(command: &Command) -> String {
        let mut text = Vec::new();
        command.write(program(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_shell_completes_commands_and_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let text = written(&Command::Completions { shell });
            assert!(text.contains("run") && text.contains("force"), "{shell}");
        }
    }

    #[test]
    fn there_is_a_page_for_the_program_and_for_each_command() {
        assert!(written(&Command::Man { folder: None }).contains("A program"));
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("man1");
        assert_eq!(written(&Command::Man { folder: Some(folder.clone()) }), "");
        let page = std::fs::read_to_string(folder.join("program-run.1")).unwrap();
        assert!(page.contains("Replace them"), "{page}");
        assert!(folder.join("program.1").is_file());
    }

    #[test]
    fn help_is_the_same_asked_for_in_short_or_at_length() {
        let flag = Arg::new("it").long("it").help("A line").long_help("A line.\n\nAnd more.");
        let program = program().subcommand(clap::Command::new("more").about("More").arg(flag));
        assert_eq!(with_two_helps(&program), ["program more"], "as clap has it");
        let program = program.disable_help_flag(true).arg(help());
        assert_eq!(with_two_helps(&program), Vec::<String>::new());
        let text = program.try_get_matches_from(["program", "more", "-h"]).unwrap_err().to_string();
        assert!(text.contains("And more.") && text.contains("-h, --help"), "{text}");
    }

    #[test]
    fn what_nothing_is_said_about_is_named() {
        assert_eq!(undocumented(&program()), Vec::<String>::new());
        let program = program().subcommand(clap::Command::new("bare").arg(Arg::new("it")));
        assert_eq!(undocumented(&program), ["program bare", "program bare it"]);
    }
}
