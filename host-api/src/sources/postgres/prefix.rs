//! The command in front of every tool (`docker compose exec -T db`, `ssh db1`, `sudo -u postgres`): what it does to words, variables and
//! pipes.
//!
//! A prefix is a chain of programs, each of which starts the next one: `ssh db1 sudo -u postgres`. For each of them stands here how words
//! come through (a shell on the way takes them apart), how a variable does, and which of its options would end or mangle our pipes. Of a
//! program that is not known nothing is assumed but that it starts what follows with words and pipes as they are.

mod options;

use options::{COMPOSE, COMPOSE_EXEC, CONTAINER, CONTAINER_EXEC, Options, SSH, SUDO};

use crate::error::{Error, Result};

/// What has the password on its way through a prefix; libpq reads it.
pub(super) const PASSWORD: &str = "PGPASSWORD";

/// A prefix that has been taken apart and can be used.
#[derive(Debug)]
pub struct Prefix {
    words: Vec<String>,
    hops: Vec<Hop>,
}

/// One program of the chain.
#[derive(Debug)]
struct Hop {
    /// Where its name stands.
    at: usize,
    variables: Variables,
    /// Where what it starts begins, if it has a shell take the words behind it apart.
    shell_from: Option<usize>,
}

/// How a variable of its own environment reaches what a program starts.
#[derive(Debug, Clone, Copy)]
enum Variables {
    /// By itself.
    Inherited,
    /// By being named, without its value, in words of its own in front of the word at `at`.
    Named { at: usize, form: Named },
    /// Not at all, or nobody here knows.
    Lost,
}

#[derive(Debug, Clone, Copy)]
enum Named {
    /// `-e NAME`.
    Container,
    /// `--preserve-env=NAME`.
    Sudo,
    /// `-o SendEnv=NAME`.
    Ssh,
}

impl Named {
    fn words(self, variable: &str) -> Vec<String> {
        match self {
            Self::Container => vec!["-e".into(), variable.into()],
            Self::Sudo => vec![format!("--preserve-env={variable}")],
            Self::Ssh => vec!["-o".into(), format!("SendEnv={variable}")],
        }
    }
}

impl Prefix {
    /// Takes a prefix apart. Refused is one that would mangle or close the pipes to a tool, have a shell expand our words, or show a
    /// password to everybody.
    pub fn parse(words: &[String]) -> Result<Self> {
        let mut chain = Chain { words, at: 0 };
        let mut hops = Vec::new();
        if let Some(word) = words.iter().find(|word| word.contains(&format!("{PASSWORD}="))) {
            let shown = word.split_once('=').map_or("", |(name, _)| name);
            return Err(Error::refused(format!("`{shown}=…` would show a password to every user of the machine"))
                .hint("remove it, and name the secret in `password`, or a file on that side: env PGPASSFILE=/path"));
        }
        while chain.at < words.len() {
            hops.push(chain.hop().map_err(|e| e.context("prefix"))?);
        }
        Ok(Self { words: words.to_vec(), hops })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How many shells take the word at this place apart, one after the other.
    fn shells_before(&self, at: usize) -> usize {
        self.hops.iter().filter(|hop| hop.shell_from.is_some_and(|from| from <= at)).count()
    }

    /// A word behind the prefix, in the form in which it arrives as itself.
    pub fn word(&self, text: &str) -> String {
        quoted(text, self.shells_before(usize::MAX))
    }

    /// The prefix's words; `carrying`: a variable of the first program's environment that must reach the tool.
    pub fn words(&self, carrying: Option<&str>) -> Result<Vec<String>> {
        let mut out = Vec::new();
        let mut named = Vec::new();
        for hop in carrying.iter().flat_map(|_| &self.hops) {
            match hop.variables {
                Variables::Inherited => {}
                Variables::Named { at, form } => named.push((at, form)),
                Variables::Lost => return Err(lost(program(&self.words[hop.at]))),
            }
        }
        for (at, word) in self.words.iter().enumerate() {
            let shells = self.shells_before(at);
            for (_, form) in named.iter().filter(|(before, _)| *before == at) {
                out.extend(form.words(carrying.unwrap_or_default()).iter().map(|w| quoted(w, shells)));
            }
            out.push(quoted(word, shells));
        }
        Ok(out)
    }

    /// Refuses a password that could not be handed through.
    pub fn check_password(&self) -> Result<()> {
        self.words(Some(PASSWORD)).map(drop)
    }

    /// What to look at when the server saw no password although one was sent.
    pub fn password_hint(&self) -> &'static str {
        let over_ssh = self.hops.iter().any(|hop| hop.shell_from.is_some());
        if over_ssh {
            "sshd passes it on only with `AcceptEnv PGPASSWORD`; or use a password file there: env PGPASSFILE=/path"
        } else {
            "something in the prefix drops it; use a password file on that side: env PGPASSFILE=/path"
        }
    }
}

fn lost(program: &str) -> Error {
    Error::refused(format!("a password can't be handed through `{}`", crate::identifier::shown(program))).hint(
        "remove `password` and let the role in there without one (peer, trust), or with a password file on that side: \
         end the prefix with \"env\", \"PGPASSFILE=/path\"",
    )
}

/// Quotes a word for so many shells, one inside the other.
fn quoted(text: &str, shells: usize) -> String {
    (0..shells).fold(text.to_owned(), |text, _| format!("'{}'", text.replace('\'', "'\\''")))
}

/// The name of a program, without its directory.
fn program(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// The words while they are taken apart.
struct Chain<'a> {
    words: &'a [String],
    at: usize,
}

impl Chain<'_> {
    fn hop(&mut self) -> Result<Hop> {
        let at = self.at;
        let name = program(&self.words[at]);
        self.at += 1;
        let inherited = Hop { at, variables: Variables::Inherited, shell_from: None };
        match name {
            "nice" | "ionice" | "setsid" | "stdbuf" | "setpriv" | "runuser" | "env" | "timeout" | "gosu"
            | "su-exec" | "doas" => {
                let drops = self.wrapper(name)?;
                let variables = if drops { Variables::Lost } else { Variables::Inherited };
                Ok(Hop { variables, ..inherited })
            }
            "sudo" => {
                self.skip(&SUDO, |option, _| match option {
                    "-s" | "--shell" | "-i" | "--login" => {
                        Err(Error::refused(format!("`sudo {option}` has a shell expand what it is given"))
                            .hint("name the user with -u, and leave that option out"))
                    }
                    "-b" | "--background" | "-S" | "--stdin" | "-e" | "--edit" => {
                        Err(Error::refused(format!("with `sudo {option}` a tool has no standard input"))
                            .hint("leave it out"))
                    }
                    _ => Ok(()),
                })?;
                self.skip_assignments();
                Ok(Hop { variables: Variables::Named { at: at + 1, form: Named::Sudo }, ..inherited })
            }
            "docker" | "podman" | "nerdctl" => self.container(name, inherited),
            "docker-compose" | "podman-compose" => self.compose(name, inherited),
            "kubectl" | "oc" => self.kubernetes(name, inherited),
            "ssh" => {
                let see = |option: &str, _: Option<&str>| match option {
                    "-t" => Err(terminal(name, "-t")),
                    "-n" | "-f" | "-N" | "-W" => {
                        Err(Error::refused(format!("with `ssh {option}` a tool has no standard input"))
                            .hint("leave it out"))
                    }
                    _ => Ok(()),
                };
                self.skip(&SSH, see)?;
                self.subject(name, "host")?;
                // Options may follow the host as well.
                self.skip(&SSH, see)?;
                let variables = Variables::Named { at: at + 1, form: Named::Ssh };
                Ok(Hop { variables, shell_from: Some(self.at), ..inherited })
            }
            "su" => Err(Error::refused("`su` takes a command as one text for a shell, not as words")
                .hint("use [\"runuser\", \"-u\", \"postgres\", \"--\"] or [\"sudo\", \"-n\", \"-u\", \"postgres\"]")),
            _ => self.unknown(name, inherited),
        }
    }

    /// A program that is not known starts the rest as it stands. With a shell somewhere behind it that could not be right.
    fn unknown(&mut self, name: &str, hop: Hop) -> Result<Hop> {
        if self.words[self.at..].iter().any(|word| program(word) == "ssh") {
            return Err(Error::refused(format!(
                "what `{}` does with `ssh` is not known, so words behind it can't be quoted",
                crate::identifier::shown(name)
            ))
            .hint("begin the prefix with ssh, and put its options into ssh's own configuration"));
        }
        self.at = self.words.len();
        Ok(Hop { variables: Variables::Lost, ..hop })
    }

    /// A program of this machine that starts the next one; true if it drops the environment.
    fn wrapper(&mut self, name: &str) -> Result<bool> {
        let mut drops = name == "doas";
        let mut user = false;
        let options = options::of_wrapper(name);
        self.skip(&options, |option, _| {
            match (name, option) {
                ("env", "-i" | "--ignore-environment") | ("setpriv", "--reset-env") => drops = true,
                ("env", "-S" | "--split-string") => {
                    return Err(
                        Error::refused("`env -S` takes a text apart").hint("write its words as words of the list")
                    );
                }
                ("runuser", "-u" | "--user") => user = true,
                ("doas", "-s") => {
                    return Err(Error::refused("`doas -s` starts a shell").hint("name the user with -u"));
                }
                _ => {}
            }
            Ok(())
        })?;
        match name {
            // `-` is `-i`.
            "env" => {
                if self.words.get(self.at).is_some_and(|word| word == "-") {
                    drops = true;
                    self.at += 1;
                }
                self.skip_assignments();
            }
            "timeout" => self.subject(name, "duration")?,
            "gosu" | "su-exec" => self.subject(name, "user")?,
            "runuser" if !user => {
                return Err(Error::refused("`runuser` without -u takes a command as one text for a shell")
                    .hint("use [\"runuser\", \"-u\", \"postgres\", \"--\"]"));
            }
            _ => {}
        }
        Ok(drops)
    }

    fn container(&mut self, name: &str, hop: Hop) -> Result<Hop> {
        self.skip(&CONTAINER, |_, _| Ok(()))?;
        let mut verb = self.words.get(self.at).map(String::as_str);
        self.at += 1;
        if verb == Some("container") {
            verb = self.words.get(self.at).map(String::as_str);
            self.at += 1;
        }
        match verb {
            Some("compose") => return self.compose(&format!("{name} compose"), hop),
            Some("exec") => {}
            // `docker run`, say: nothing is known of what its options do.
            Some(_) => return self.unknown(name, hop),
            None => return Err(cut_off(name)),
        }
        let at = self.at;
        let mut stdin = false;
        self.skip(&CONTAINER_EXEC, |option, value| {
            match option {
                "-i" | "--interactive" => stdin = value != Some("false"),
                "-t" | "--tty" if value != Some("false") => return Err(terminal(name, option)),
                "-d" | "--detach" => return Err(detached(name, option)),
                _ => {}
            }
            Ok(())
        })?;
        if !stdin {
            return Err(Error::refused(format!("`{name} exec` without -i gives a tool no standard input"))
                .hint(format!("write \"{name}\", \"exec\", \"-i\", …")));
        }
        self.subject(name, "container")?;
        Ok(Hop { variables: Variables::Named { at, form: Named::Container }, ..hop })
    }

    fn compose(&mut self, name: &str, hop: Hop) -> Result<Hop> {
        self.skip(&COMPOSE, |_, _| Ok(()))?;
        match self.words.get(self.at).map(String::as_str) {
            Some("exec") => self.at += 1,
            Some(_) => return self.unknown(name, hop),
            None => return Err(cut_off(name)),
        }
        let at = self.at;
        let mut plain = false;
        self.skip(&COMPOSE_EXEC, |option, value| {
            match option {
                "-T" | "--no-TTY" | "--no-tty" => plain = value != Some("false"),
                "-t" | "--tty" if value != Some("false") => return Err(terminal(name, option)),
                "-d" | "--detach" => return Err(detached(name, option)),
                _ => {}
            }
            Ok(())
        })?;
        if !plain {
            return Err(Error::refused(format!("`{name} exec` without -T puts a terminal between us and a tool"))
                .hint(format!("write {name} exec -T …")));
        }
        self.subject(name, "service")?;
        Ok(Hop { variables: Variables::Named { at, form: Named::Container }, ..hop })
    }

    fn kubernetes(&mut self, name: &str, hop: Hop) -> Result<Hop> {
        let rest = &self.words[self.at..];
        let Some(end) = rest.iter().position(|word| word == "--") else {
            return Err(Error::refused(format!("`{name} exec` needs `--` in front of what it runs"))
                .hint(format!("end with \"--\": {name} exec -i POD --")));
        };
        let before = &rest[..end];
        if !before.iter().any(|word| word == "exec") {
            return self.unknown(name, hop);
        }
        let given = |letter: char, long: &str| {
            before.iter().any(|word| {
                let short =
                    word.strip_prefix('-').filter(|w| !w.starts_with('-') && w.chars().all(|c| "itq".contains(c)));
                *word == format!("--{long}")
                    || *word == format!("--{long}=true")
                    || short.is_some_and(|w| w.contains(letter))
            })
        };
        if given('t', "tty") {
            return Err(terminal(name, "-t"));
        }
        if !given('i', "stdin") {
            return Err(Error::refused(format!("`{name} exec` without -i gives a tool no standard input"))
                .hint(format!("write {name} exec -i POD --")));
        }
        self.at += end + 1;
        Ok(Hop { variables: Variables::Lost, ..hop })
    }

    /// Goes over a program's options, and `--` at their end. Each is told to `see` by its name, with a value that stands in its own word.
    fn skip(&mut self, options: &Options, mut see: impl FnMut(&str, Option<&str>) -> Result<()>) -> Result<()> {
        while let Some(word) = self.words.get(self.at) {
            if word == "--" {
                self.at += 1;
                return Ok(());
            }
            if let Some(long) = word.strip_prefix("--") {
                let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v)));
                see(&format!("--{name}"), value)?;
                self.at += 1 + usize::from(value.is_none() && options.long.contains(&name));
            } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                let mut takes_next = false;
                for (index, letter) in letters.char_indices() {
                    see(&format!("-{letter}"), None)?;
                    if options.short.contains(letter) {
                        // The rest of the word is its value, or the next word.
                        takes_next = index + letter.len_utf8() == letters.len();
                        break;
                    }
                }
                self.at += 1 + usize::from(takes_next);
            } else {
                return Ok(());
            }
        }
        // An option whose value would be our tool.
        if self.at > self.words.len() { Err(cut_off(&self.words[self.words.len() - 1])) } else { Ok(()) }
    }

    fn skip_assignments(&mut self) {
        while self.words.get(self.at).is_some_and(|word| word.contains('=') && !word.starts_with('-')) {
            self.at += 1;
        }
    }

    /// The one word that a program wants before what it starts.
    fn subject(&mut self, program: &str, what: &str) -> Result<()> {
        if self.at >= self.words.len() {
            return Err(Error::refused(format!("`{program}` names no {what}"))
                .hint("the prefix must be complete: a tool's name follows it"));
        }
        self.at += 1;
        // What a `--` behind it separates is the same.
        if self.words.get(self.at).is_some_and(|word| word == "--") {
            self.at += 1;
        }
        Ok(())
    }
}

fn cut_off(program: &str) -> Error {
    Error::refused(format!("`{}` ends in the middle", crate::identifier::shown(program)))
        .hint("the prefix must be complete: a tool's name follows it")
}

fn terminal(program: &str, option: &str) -> Error {
    Error::refused(format!("`{program} … {option}` puts a terminal between us and a tool, which changes bytes"))
        .hint("leave it out")
}

fn detached(program: &str, option: &str) -> Error {
    Error::refused(format!("`{program} … {option}` does not wait for a tool")).hint("leave it out")
}

#[cfg(test)]
mod tests;
