//! `roster completion`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{arguments::Arguments, failure::Failure, output::Output};

/// Prints a script that completes roster's commands and flags in a shell
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  source <(roster completion bash)
  roster completion zsh > ~/.zfunc/_roster
  roster completion fish > ~/.config/fish/completions/roster.fish")]
pub(super) struct CompletionArgs {
    /// Which shell
    shell: Shell,
}

impl CompletionArgs {
    pub(super) fn run(self, output: &mut Output) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "roster", &mut script);
        output.bytes(&script)
    }
}
