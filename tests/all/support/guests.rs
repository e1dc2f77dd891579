//! The hostile and helpful guests of `tests/guests` on a site, and what a run of one left behind.

use std::process::Child;
use std::sync::Arc;

use engine::Engine;
use engine::config::Config;
use engine::run::Ended;
use serde_json::{Value, json};

use super::{Outcome, Site, policy};

impl Site {
    /// Gives the environment a policy of this name: a guest's module, its world, its grants, and more lines of its table.
    pub fn guest(&self, name: &str, module: &str, world: &str, grants: &[&str], more: &str) {
        let module = policy(module);
        assert!(module.exists(), "{} is not packed: `cargo xtask policies`", module.display());
        self.append(&format!(
            "[environment.demo.policy.\"{name}\"]\nmodule = {:?}\nworld = {world:?}\ngrants = {}\n{more}\n",
            module.display().to_string(),
            json!(grants),
        ));
    }

    /// Starts the live service with three notes in it.
    pub fn serve_some_notes(&mut self) {
        self.serve_notes();
        for (title, attachment) in [("one", Some("text")), ("two", None), ("three", Some("more"))] {
            let note = json!({"title": title, "body": "b", "attachment": attachment, "remind": true});
            assert_eq!(self.http("POST", "/notes", Some(&note)).unwrap().status, 201);
        }
    }

    /// What `runs show --json` says of the run that a command reported.
    pub fn shown(&self, outcome: &Outcome) -> Value {
        self.show(outcome.json()["run"].as_str().expect("it reports its run"))
    }

    /// What `runs show --json` says of a run.
    pub fn show(&self, run: &str) -> Value {
        self.lifeboat(&["--json", "runs", "show", run]).expect(0).json()
    }

    /// Whether the live service answers.
    pub fn is_up(&self) -> bool {
        self.http("GET", "/livez", None).is_some_and(|a| a.status == 200)
    }

    /// Starts a run that is not waited for.
    pub fn start_run(&self, policy: &str, words: &[&str]) -> Running {
        let arguments = [&["--json", "run", policy], words].concat();
        let mut command = self.command(&arguments);
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        Running(Some(command.spawn().unwrap()))
    }

    /// An engine of this process on the site's state.
    pub async fn engine(&self) -> Engine {
        self.warm();
        let config = Config::load(&self.path("lifeboat.toml")).unwrap();
        config.builder().unwrap().build().await.unwrap()
    }

    /// Runs a policy in an engine of this process, as a host program does.
    pub async fn embedded(&self, engine: &Arc<Engine>, policy: &str, words: &[&str]) -> Ended {
        let config = Config::load(&self.path("lifeboat.toml")).unwrap();
        let environment = config.environment(None).unwrap();
        let binding = environment.policy(policy).unwrap();
        let module = engine.load(&binding.read_module().unwrap()).unwrap();
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        let parameters = binding.parameters(&module.inspected.description, &words).unwrap();
        let options = environment.run_options(policy, &binding, parameters, "embedded").unwrap();
        engine.run(&module, options).await.unwrap()
    }
}

/// A run that is not waited for; one that a failing test leaves behind is killed.
pub struct Running(Option<Child>);

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let id = self.0.as_ref().expect("it was not waited for").id().to_string();
        assert!(std::process::Command::new("kill").args([format!("-{name}"), id]).status().unwrap().success());
    }

    /// How it came out.
    pub fn outcome(mut self) -> Outcome {
        let out = self.0.take().expect("it was not waited for").wait_with_output().unwrap();
        Outcome {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Records of a kind in what `runs show --json` says.
pub fn records<'v>(shown: &'v Value, kind: &str) -> Vec<&'v Value> {
    shown["records"].as_array().unwrap().iter().filter(|r| r["kind"] == kind).collect()
}

/// Requests in the order they were made: call and canonical arguments, each once.
pub fn requests(shown: &Value) -> Vec<String> {
    shown["records"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| matches!(r["kind"].as_str(), Some("answered" | "completed")))
        .map(|r| r["request"].to_string())
        .collect()
}

/// Every note of a run.
pub fn notes(shown: &Value) -> Vec<String> {
    shown["records"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|r| r["said"].as_array().cloned().unwrap_or_default())
        .filter_map(|item| item["note"].as_str().map(str::to_owned))
        .collect()
}
