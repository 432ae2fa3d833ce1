//! Exit codes of the program: the closed list, for the commands, the manual and the reference.

use std::process::ExitCode;

/// Exit code of the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// The command succeeded.
    Done,
    /// The command failed, or its answer is no.
    Failed,
    /// The command line is wrong.
    Usage,
    /// `plan` found changes.
    Changes,
    /// `drift` could not compare.
    Unknown,
    /// The configuration is rejected, as `EX_CONFIG` of sysexits.h: a service manager need not try
    /// again.
    Config,
}

impl Exit {
    /// All exit codes, in ascending order.
    pub const ALL: [Self; 6] =
        [Self::Done, Self::Failed, Self::Usage, Self::Changes, Self::Unknown, Self::Config];

    /// The code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Changes => 3,
            Self::Unknown => 4,
            Self::Config => 78,
        }
    }

    /// Commands that exit with this code, and why, in Markdown.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "The command succeeded. Warnings do not change the code.",
            Self::Failed => {
                "The command failed, or its answer is no: `check` or `config show` found errors, \
                 `drift` found a difference, a check of `doctor` failed, the request of `explain` \
                 would be rejected, `plan` or `reload` was rejected, `healthcheck` found the \
                 gateway not ready, no gateway answers, or `run` could not bind an address."
            }
            Self::Usage => {
                "The command line is wrong, or `explain` was asked about a listener that does not \
                 exist."
            }
            Self::Changes => "`plan` found changes that a reload would apply.",
            Self::Unknown => {
                "`drift` cannot compare: a gateway cannot be reached or verified, none is \
                 configured, or no gateway runs on this host."
            }
            Self::Config => {
                "`run` was given an invalid configuration, so a restart would not help (systemd: \
                 `RestartPreventExitStatus=78`)."
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
