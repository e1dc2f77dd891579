//! Which options of the programs in a prefix take a value: what follows the options is known only then.

/// Options with a value; every other one is taken to have none.
pub(super) struct Options {
    /// Letters.
    pub short: &'static str,
    /// Long names, without the dashes, whose value may be the next word.
    pub long: &'static [&'static str],
}

pub(super) const SUDO: Options = Options {
    short: "CDghpRrtTuU",
    long: &[
        "close-from",
        "chdir",
        "group",
        "host",
        "prompt",
        "chroot",
        "role",
        "type",
        "command-timeout",
        "user",
        "other-user",
    ],
};

pub(super) const SSH: Options = Options { short: "BbcDEeFIiJLlmOoPpQRSWw", long: &[] };

pub(super) const CONTAINER: Options = Options {
    short: "cHl",
    long: &[
        "config",
        "context",
        "host",
        "log-level",
        "tlscacert",
        "tlscert",
        "tlskey",
        "url",
        "connection",
        "identity",
        "root",
        "runroot",
        "namespace",
        "address",
    ],
};

pub(super) const CONTAINER_EXEC: Options =
    Options { short: "euw", long: &["detach-keys", "env", "env-file", "user", "workdir", "preserve-fds"] };

pub(super) const COMPOSE: Options = Options {
    short: "fpHc",
    long: &[
        "file",
        "project-name",
        "profile",
        "env-file",
        "project-directory",
        "parallel",
        "progress",
        "ansi",
        "host",
        "context",
        "tlscacert",
        "tlscert",
        "tlskey",
        "workdir",
        "log-level",
    ],
};

pub(super) const COMPOSE_EXEC: Options = Options { short: "euw", long: &["env", "index", "user", "workdir"] };

/// Of a program that starts another one on this machine.
pub(super) fn of_wrapper(name: &str) -> Options {
    match name {
        "nice" => Options { short: "n", long: &["adjustment"] },
        "ionice" => Options { short: "cn", long: &["class", "classdata"] },
        "stdbuf" => Options { short: "ioe", long: &["input", "output", "error"] },
        "setpriv" => Options {
            short: "",
            long: &[
                "ambient-caps",
                "bounding-set",
                "inh-caps",
                "groups",
                "rgid",
                "egid",
                "regid",
                "ruid",
                "euid",
                "reuid",
                "securebits",
                "pdeathsig",
                "selinux-label",
                "apparmor-profile",
            ],
        },
        "runuser" => {
            Options { short: "ugGws", long: &["user", "group", "supp-group", "whitelist-environment", "shell"] }
        }
        "env" => Options { short: "uCS", long: &["unset", "chdir", "split-string"] },
        "timeout" => Options { short: "ks", long: &["kill-after", "signal"] },
        "doas" => Options { short: "Cu", long: &[] },
        _ => Options { short: "", long: &[] },
    }
}
