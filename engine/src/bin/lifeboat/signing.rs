//! Signing with the stock `ssh-keygen`: it knows key files, passphrases, agents and hardware.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use engine::Result;
use engine::error::{Error, Kind};

/// What signs.
pub enum SignWith<'a> {
    /// A key file; its passphrase is asked for at the terminal.
    File(&'a Path),
    /// The SSH agent, with the key of this public line.
    Agent(String),
}

/// Signs a text in a namespace; gives the armor.
pub fn sign(with: &SignWith<'_>, namespace: &str, text: &str) -> Result<String> {
    let failed = |what: &str, e: &dyn std::fmt::Display| Error::new(Kind::Failed, format!("{what}: {e}"));
    // ssh-keygen takes a public key for one that the agent has.
    let mut public = tempfile::NamedTempFile::new().map_err(|e| failed("a temporary file", &e))?;
    let file = match with {
        SignWith::File(file) => *file,
        SignWith::Agent(line) => {
            writeln!(public, "{line}").map_err(|e| failed("a temporary file", &e))?;
            public.path()
        }
    };
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-q", "-n", namespace, "-f"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed("ssh-keygen", &e).hint("it comes with OpenSSH (Debian: openssh-client)"))?;
    let mut stdin = child.stdin.take();
    // Closed when written: the text ends there. If ssh-keygen does not read it, its exit code says more than the pipe.
    let _ = stdin.as_mut().map(|pipe| pipe.write_all(text.as_bytes()));
    drop(stdin);
    let out = child.wait_with_output().map_err(|e| failed("ssh-keygen", &e))?;
    if !out.status.success() {
        let hint = match with {
            SignWith::File(_) => "name the private key; or a public key whose private half the agent holds",
            SignWith::Agent(_) => {
                "the SSH agent must hold the approver's key (`ssh-add -L` shows what it holds); or name a file with --key"
            }
        };
        return Err(Error::new(Kind::Failed, format!("ssh-keygen did not sign: {}", out.status)).hint(hint));
    }
    String::from_utf8(out.stdout).map_err(|e| failed("ssh-keygen", &e))
}
