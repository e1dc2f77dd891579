//! The main job, on an embedded default: a small service is backed up, drilled, upgraded, found broken and rolled back.

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::policies;
use crate::workspace::Workspace;

/// The port that the example's configuration names; the demo takes a free one instead.
const PORT_IN_EXAMPLE: &str = "18080";

/// Sets up what it needs, then runs the demo in `target/demo`.
///
/// # Errors
///
/// If something can't be built or started, or the story does not go as it must.
pub fn run(workspace: &Workspace) -> Result<()> {
    policies::build(workspace)?;
    let demo = Demo::lay_out(workspace)?;
    let _service = demo.serve()?;
    let result = demo.story();
    if result.is_err() {
        eprintln!("the service's output: {}", demo.root.join(".lifeboat/logs/notes.log").display());
    }
    result
}

/// The demo's folder and programs.
struct Demo {
    root: PathBuf,
    lifeboat: PathBuf,
    port: u16,
}

/// `lifeboat serve`, ended with this value.
struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        // SIGTERM: it stops its children before it ends. `kill` is everywhere; the standard library has no signals.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Demo {
    fn lay_out(workspace: &Workspace) -> Result<Self> {
        let root = workspace.target.join("demo");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("clearing {}", root.display()))?;
        }
        for folder in ["backups", "offsite", "live/attachments", "policies", "versions/1.0.0@by-hand"] {
            fs::create_dir_all(root.join(folder))?;
        }
        for (version, binary) in [("1.0.0", "notes-1"), ("2.0.0", "notes-2")] {
            fs::create_dir_all(root.join("releases").join(version))?;
            fs::copy(workspace.debug_binary(binary), root.join("releases").join(version).join("notes"))?;
        }
        fs::copy(root.join("releases/1.0.0/notes"), root.join("versions/1.0.0@by-hand/notes"))?;
        std::os::unix::fs::symlink("1.0.0@by-hand", root.join("versions/current"))?;
        for policy in ["backup", "drill", "upgrade", "rollback", "restore", "cadence"] {
            let file = format!("{policy}.wasm");
            fs::copy(workspace.packed_policies().join(&file), root.join("policies").join(&file))?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let example = fs::read_to_string(workspace.root.join("examples/notes/lifeboat.toml"))?;
        fs::write(root.join("lifeboat.toml"), example.replace(PORT_IN_EXAMPLE, &port.to_string()))?;
        Ok(Self { root, lifeboat: workspace.debug_binary("lifeboat"), port })
    }

    fn serve(&self) -> Result<Serve> {
        title("the service, version 1.0.0, as a child of `lifeboat serve`");
        let child = self.command(&["serve", "--no-schedule", "--start", "notes"]).stdin(Stdio::null()).spawn()?;
        let serve = Serve(child);
        for _ in 0..200 {
            if self.http("GET", "/readyz", "").is_ok_and(|answer| answer.contains("\"ready\":true")) {
                return Ok(serve);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the service did not become ready within 10 s");
    }

    fn story(&self) -> Result<()> {
        for (title, attachment) in [("buy rope", "ten metres"), ("paint the boat", "red"), ("check the flares", "")] {
            let attachment = match attachment {
                "" => String::new(),
                text => format!(r#","attachment":"{text}""#),
            };
            let body = format!(r#"{{"title":"{title}","body":"a note","remind":true{attachment}}}"#);
            self.http("POST", "/notes", &body)?;
        }
        println!("three notes written, two with attachments");

        title("back up: one manifest over database and files, copied off site");
        self.lifeboat(&["run", "backup"], 0)?;
        title("drill: restore into scratch, compare, serve in quarantine, measure");
        self.lifeboat(&["run", "drill"], 0)?;
        title("upgrade to 2.0.0: its list is broken, while /readyz says all is well");
        self.lifeboat(&["run", "upgrade", "--param", "version=2.0.0"], 1)?;
        ensure!(self.http("GET", "/readyz", "")?.contains("\"ready\":true"), "version 2 should say that it is ready");
        ensure!(self.http("GET", "/notes", "")?.starts_with("HTTP/1.1 500"), "version 2 should fail to list");

        self.http(
            "POST",
            "/notes",
            r#"{"title":"written by version 2","body":"set aside by the rollback, not lost"}"#,
        )?;

        title("roll back: data and version, with a person's consent");
        let mut rollback = vec!["run", "rollback", "--param", "version=1.0.0"];
        if !std::io::stdin().is_terminal() {
            println!("(no terminal: consent by --yes, which this environment allows)");
            rollback.push("--yes");
        }
        self.lifeboat(&rollback, 0)?;
        let notes = self.http("GET", "/notes", "")?;
        ensure!(
            notes.contains("buy rope") && notes.contains("\"count\":3"),
            "the notes should be there again: {notes}"
        );
        println!("version 1.0.0 serves the three notes again");

        title("what happened");
        self.lifeboat(&["runs", "list"], 0)?;
        println!();
        let run = self.newest_run("rollback")?;
        self.lifeboat(&["runs", "show", &run], 0)?;
        println!();
        self.show_drill()?;
        println!("\nevidence   {}", self.root.join(".lifeboat/evidence").display());
        println!("\ntry next, in {}:", self.root.display());
        for command in ["policy inspect rollback", "backups list", "promotions list"] {
            println!("  {} {command}", self.lifeboat.display());
        }
        Ok(())
    }

    fn show_drill(&self) -> Result<()> {
        let run = self.newest_run("drill")?;
        let path = self.root.join(".lifeboat/evidence").join(run).join("drill.json");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let drill: serde_json::Value = serde_json::from_str(&text)?;
        println!("the drill's evidence, {}:", path.display());
        println!("  recovery point (RPO)  newest record {} ms old", drill["recovery-point"]["newest-to-now-ms"]);
        println!(
            "  recovery time (RTO)   {} ms from the start of the restore to a ready service",
            drill["recovery-time"]["stage-to-ready-ms"]
        );
        println!("  compared              {} rows, {} files", drill["rows-compared"], drill["files-compared"]);
        println!("  findings              {}", drill["findings"]);
        Ok(())
    }

    fn newest_run(&self, policy: &str) -> Result<String> {
        let out = self.command(&["--json", "runs", "list", "--policy", policy, "--limit", "1"]).output()?;
        let runs: serde_json::Value = serde_json::from_slice(&out.stdout)?;
        runs[0]["run"].as_str().map(str::to_owned).with_context(|| format!("no run of {policy}"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.lifeboat);
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// Runs a verb in the foreground; it must end with this exit code.
    fn lifeboat(&self, arguments: &[&str], expected: i32) -> Result<()> {
        println!("$ lifeboat {}", arguments.join(" "));
        let status = self.command(arguments).status()?;
        ensure!(
            status.code() == Some(expected),
            "lifeboat {} ended with {status}, expected exit code {expected}",
            arguments[0]
        );
        Ok(())
    }

    /// One HTTP exchange with the service; the whole answer as text.
    fn http(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn title(text: &str) {
    println!("\n── {text}");
}
