//! Signed approvals through the command line, with the stock `ssh-keygen`: who can consent to what, from where, and what nobody can forge.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use engine::approvals::signature::{Key, Signature};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::guests::records;
use crate::support::{Outcome, Site, lifeboat, wait_until};

const PEOPLE: [(&str, &str); 3] = [("alice", "dba"), ("bob", "dba"), ("carol", "web")];

/// A site whose environment asks for signatures, and the people with the keys, each at home elsewhere.
struct Office {
    site: Site,
    homes: TempDir,
}

/// Runs a tool; it must succeed.
#[track_caller]
fn tool(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: is openssh-client installed?"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Makes a pair of keys without a passphrase.
pub fn make_key(file: &Path, kind: &str) {
    tool(Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-C", "somebody", "-f"]).arg(file));
}

/// Signs a file as its owner would, away from Lifeboat; gives the signature's file.
fn sign(key: &Path, namespace: &str, file: &Path) -> PathBuf {
    let signature = PathBuf::from(format!("{}.sig", file.display()));
    // ssh-keygen asks before it overwrites.
    let _ = fs::remove_file(&signature);
    tool(Command::new("ssh-keygen").args(["-Y", "sign", "-q", "-n", namespace, "-f"]).arg(key).arg(file));
    signature
}

impl Office {
    /// The rule is a few lines of `[environment.demo.approval]`.
    fn open(rule: &str) -> Self {
        let mut site = Site::notes();
        let homes = tempfile::tempdir().unwrap();
        let mut text = format!("[environment.demo.approval]\n{rule}\n");
        for (name, group) in PEOPLE {
            let file = homes.path().join(name);
            make_key(&file, "ed25519");
            let public = fs::read_to_string(file.with_extension("pub")).unwrap();
            text.push_str(&format!(
                "[environment.demo.approver.{name}]\nkey = {:?}\ngroups = [{group:?}]\n",
                public.trim()
            ));
        }
        site.configure(&[("allow-yes = true", "allow-yes = false")]);
        site.append(&text);
        site.serve_some_notes();
        site.run("backup", &[]).expect(0);
        Self { site, homes }
    }

    fn key(&self, name: &str) -> PathBuf {
        self.homes.path().join(name)
    }

    fn key_text(&self, name: &str) -> String {
        self.key(name).display().to_string()
    }

    /// As someone else, by the login name.
    fn as_user(&self, user: &str, arguments: &[&str]) -> Outcome {
        let mut command = self.site.command(arguments);
        command.env("USER", user).env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
        outcome(&mut command)
    }

    /// Starts a restore as dave, who is no approver; it parks. Gives run and approval.
    fn parked(&self) -> (String, String) {
        let parked = self.as_user("dave", &["--json", "run", "restore"]).expect(13);
        let run = parked.json()["run"].as_str().unwrap().to_owned();
        (run.clone(), self.open_approval(&run))
    }

    fn open_approval(&self, run: &str) -> String {
        let open = self.site.lifeboat(&["--json", "approvals", "list"]).expect(0).json();
        let ours = open.as_array().unwrap().iter().find(|a| a["run"] == run);
        ours.unwrap_or_else(|| panic!("no open approval of {run}: {open}"))["approval"].as_str().unwrap().to_owned()
    }

    fn approve(&self, name: &str, approval: &str) -> Outcome {
        self.as_user("dave", &["--json", "approve", approval, "--key", &self.key_text(name)])
    }

    fn deny(&self, name: &str, approval: &str) -> Outcome {
        self.as_user("dave", &["--json", "deny", approval, "--key", &self.key_text(name)])
    }

    fn resume(&self, run: &str) -> Outcome {
        self.as_user("dave", &["--json", "runs", "resume", run])
    }

    fn shown(&self, approval: &str) -> Value {
        self.site.lifeboat(&["--json", "approvals", "show", approval]).expect(0).json()
    }

    fn votes(&self, run: &str) -> usize {
        records(&self.site.show(run), "voted").len()
    }

    fn sql(&self, text: &str) {
        let state = rusqlite::Connection::open(self.site.path(".lifeboat/state.sqlite")).unwrap();
        assert_eq!(state.execute(text, []).unwrap(), 1, "{text}");
    }

    fn promotions(&self) -> usize {
        self.site.lifeboat(&["--json", "promotions", "list"]).expect(0).json().as_array().unwrap().len()
    }
}

fn outcome(command: &mut Command) -> Outcome {
    let out = command.output().unwrap();
    Outcome {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// How the question of a run was decided.
fn decision(shown: &Value) -> Value {
    let completed = records(shown, "completed");
    let asked = completed.iter().find(|r| r["request"]["call"] == "confirm.request-promote");
    asked.unwrap_or_else(|| panic!("no answer on record: {shown:#}"))["decision"].clone()
}

#[track_caller]
fn says(outcome: &Outcome, words: &[&str]) {
    for word in words {
        assert!(outcome.said().contains(word), "{word}: {outcome:?}");
    }
}

#[test]
fn two_approvers_sign_one_of_them_elsewhere_and_the_run_goes_on() {
    let office = Office::open("needed = 2\ngroups = [\"dba\"]");
    let parked = office.as_user("dave", &["run", "restore"]).expect(13);
    says(
        &parked,
        &["has 0 of 2 signatures", "who can sign: alice, bob", "ssh-keygen -Y sign", "reminders that will be"],
    );
    let run =
        office.site.lifeboat(&["--json", "runs", "list", "--limit", "1"]).json()[0]["run"].as_str().unwrap().to_owned();
    let approval = office.open_approval(&run);

    // Another host: nothing of the site, only the text that was carried there and the key.
    let elsewhere = tempfile::tempdir().unwrap();
    let intent = elsewhere.path().join("intent.json");
    let show =
        office.site.lifeboat(&["approvals", "show", &approval, "--intent", &intent.display().to_string()]).expect(0);
    says(
        &show,
        &[
            "0 of 2",
            "promote notes in environment demo",
            "binds live.db",
            "started by dave@",
            "who can sign: alice, bob",
        ],
    );
    let mut there = Command::new("ssh-keygen");
    there.args(["-Y", "sign", "-q", "-n", "approval@lifeboat", "-f"]).arg(office.key("alice")).arg("intent.json");
    tool(there.current_dir(elsewhere.path()).env("HOME", elsewhere.path()).env_remove("SSH_AUTH_SOCK"));
    let carried = format!("{}.sig", intent.display());
    let taken = office.as_user("dave", &["--json", "approve", &approval, "--signature", &carried]).expect(0).json();
    assert_eq!(
        (&taken["approver"], &taken["recorded"], &taken["state"]),
        (&json!("alice"), &json!(true), &json!("open"))
    );

    // One is not two: it parks again, and the same vote again is no second one.
    office.resume(&run).expect(13);
    let again = office.approve("alice", &approval).expect(0).json();
    assert_eq!((&again["recorded"], office.votes(&run)), (&json!(false), 1));
    // Who is in another group does not count, and does not get on record.
    says(&office.approve("carol", &approval).expect(1), &["none of the groups", "who counts: alice, bob"]);
    assert_eq!((office.votes(&run), office.promotions()), (1, 0));

    // The agent signs for whoever acts.
    let mut agent = Command::new("ssh-agent");
    agent.args(["sh", "-c", "ssh-add -q \"$1\" && exec \"$2\" approve \"$3\"", "sh"]);
    agent.args([office.key("bob").as_os_str(), lifeboat().as_os_str(), approval.as_ref()]);
    agent.current_dir(office.site.path("")).env("USER", "bob").env_remove("LIFEBOAT_CONFIG").stdin(Stdio::null());
    says(&outcome(&mut agent).expect(0), &["bob: approve is on record", &format!("lifeboat runs resume {run}")]);
    office.resume(&run).expect(0);
    let shown = office.site.show(&run);
    assert_eq!(decision(&shown), json!({"approved-by": "alice, bob", "how": "signatures"}));
    assert_eq!((office.shown(&approval)["state"].as_str(), office.promotions()), (Some("spent"), 1));
    says(&office.approve("bob", &approval).expect(1), &["takes no vote: it is spent"]);
    says(&office.site.lifeboat(&["runs", "show", &run]), &["APPROVE by alice with key SHA256:", "APPROVE by bob"]);

    // By hand it can't be parked: it waits for the votes.
    let promotion = office.site.lifeboat(&["--json", "promotions", "list"]).json()[0]["promotion"]["id"].clone();
    let mut undo = office.site.command(&["promotions", "undo", promotion.as_str().unwrap()]);
    undo.env("USER", "dave").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let undo = undo.spawn().unwrap();
    let open = || office.site.lifeboat(&["--json", "approvals", "list"]).json();
    wait_until("the undo asks", || open().as_array().unwrap().len() == 1);
    let approval_of_undo = open()[0]["approval"].as_str().unwrap().to_owned();
    office.approve("alice", &approval_of_undo).expect(0);
    let last = office.as_user("dave", &["approve", &approval_of_undo, "--key", &office.key_text("bob")]).expect(0);
    // A run by hand can't be resumed.
    says(&last, &["it has what it needs; the command that asked goes on by itself"]);
    assert!(!last.said().contains("runs resume"), "{last:?}");
    let undone = undo.wait_with_output().unwrap();
    assert_eq!(undone.status.code(), Some(0), "{}", String::from_utf8_lossy(&undone.stderr));
    assert_eq!(office.site.lifeboat(&["--json", "promotions", "list"]).json()[0]["state"], "undone");

    third_party(&office, &run, &approval);
}

#[test]
fn a_key_that_is_replaced_takes_its_vote_with_it_also_while_a_run_by_hand_waits() {
    let office = Office::open("needed = 1");
    let (run, approval) = office.parked();
    office.approve("alice", &approval).expect(0);
    office.resume(&run).expect(0);
    office.site.configure(&[("needed = 1", "needed = 2")]);
    let promotions = || office.site.lifeboat(&["--json", "promotions", "list"]).json()[0].clone();
    let mut undo = office.site.command(&["promotions", "undo", promotions()["promotion"]["id"].as_str().unwrap()]);
    undo.env("USER", "dave").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut undo = undo.spawn().unwrap();
    let open = || office.site.lifeboat(&["--json", "approvals", "list"]).json();
    wait_until("the undo asks", || open().as_array().unwrap().len() == 1);
    let approval = open()[0]["approval"].as_str().unwrap().to_owned();
    office.approve("alice", &approval).expect(0);
    let alice = fs::read_to_string(office.key("alice").with_extension("pub")).unwrap();
    make_key(&office.key("new"), "ed25519");
    let new = fs::read_to_string(office.key("new").with_extension("pub")).unwrap();
    office.site.configure(&[(alice.trim(), new.trim())]);
    assert_eq!(office.approve("bob", &approval).expect(0).json()["given"], json!(["bob"]));
    // It looks five times a second.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!((undo.try_wait().unwrap(), promotions()["state"].as_str()), (None, Some("in-service")));
    office.approve("carol", &approval).expect(0);
    let undone = undo.wait_with_output().unwrap();
    assert_eq!(undone.status.code(), Some(0), "{}", String::from_utf8_lossy(&undone.stderr));
    assert_eq!(promotions()["state"], "undone");
}

/// Runs the commands of the documentation, as they stand there, on the run's evidence: no Lifeboat takes part.
fn third_party(office: &Office, run: &str, approval: &str) {
    let formats = include_str!("../../docs/FORMATS.md");
    let (_, after) = formats.split_once("### Verifying a vote").expect("the chapter is there");
    let commands = after.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0;
    let desk = tempfile::tempdir().unwrap();
    fs::copy(office.site.path(".lifeboat/evidence").join(run).join("journal.jsonl"), desk.path().join("journal.jsonl"))
        .unwrap();
    let verify = |signers: &str| {
        fs::write(desk.path().join("allowed_signers"), signers).unwrap();
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", commands]).env("APPROVAL", approval).current_dir(desk.path());
        outcome(&mut shell)
    };
    let line = |name: &str, key: &str| {
        let public = fs::read_to_string(office.key(key).with_extension("pub")).unwrap();
        format!("{name} namespaces=\"approval@lifeboat\" {public}")
    };
    let good = verify(&format!("{}{}", line("alice", "alice"), line("bob", "bob"))).expect(0);
    says(&good, &["Good \"approval@lifeboat\" signature for alice", "Good \"approval@lifeboat\" signature for bob"]);
    assert_ne!(verify(&format!("{}{}", line("alice", "alice"), line("bob", "carol"))).code, 0, "another key");
    let journal = desk.path().join("journal.jsonl");
    let changed = fs::read_to_string(&journal).unwrap().replace("\"why\":\"", "\"why\":\"not ");
    fs::write(&journal, changed).unwrap();
    assert_ne!(verify(&format!("{}{}", line("alice", "alice"), line("bob", "bob"))).code, 0, "another text");
}

#[test]
fn a_denial_wins_and_a_vote_can_not_be_changed() {
    let office = Office::open("needed = 2");
    let before = office.site.http("GET", "/notes", None).unwrap().body;
    let (run, approval) = office.parked();
    office.approve("alice", &approval).expect(0);
    office.approve("bob", &approval).expect(0);
    says(&office.deny("alice", &approval).expect(1), &["alice has voted `approve`", "can't be changed to `deny`"]);
    assert_eq!((office.votes(&run), office.shown(&approval)["state"].as_str()), (2, Some("approved")));
    // A signature for one purpose is none for another.
    let text = office.homes.path().join("text");
    office.site.lifeboat(&["approvals", "show", &approval, "--intent", &text.display().to_string()]).expect(0);
    let yes = sign(&office.key("carol"), "approval@lifeboat", &text).display().to_string();
    says(&office.as_user("dave", &["deny", &approval, "--signature", &yes]).expect(1), &["for another purpose"]);
    says(
        &office.as_user("dave", &["approve", &approval, "--signature", &yes, "--as", "bob"]).expect(1),
        &["another key"],
    );
    says(
        &office.as_user("dave", &["approve", &approval, "--signature", &yes, "--as", "crol"]).expect(10),
        &["did you mean `carol`"],
    );
    fs::write(&text, fs::read_to_string(&text).unwrap().replace("promote", "Promote")).unwrap();
    let other = sign(&office.key("carol"), "approval@lifeboat", &text).display().to_string();
    says(&office.as_user("dave", &["approve", &approval, "--signature", &other]).expect(1), &["not one of this text"]);
    make_key(&office.key("eve"), "ed25519");
    says(&office.approve("eve", &approval).expect(1), &["which is no approver's", "approvers: alice, bob, carol"]);
    assert_eq!(office.votes(&run), 2);

    // Enough have said yes, and it is not spent: a no still counts.
    office.deny("carol", &approval).expect(0);
    assert_eq!(office.deny("carol", &approval).expect(0).json()["recorded"], false);
    says(&office.approve("carol", &approval).expect(1), &["carol said no"]);
    let ended = office.resume(&run).expect(14);
    assert_eq!(ended.json()["status"], "rejected");
    assert!(ended.json()["summary"].as_str().unwrap().contains("carol said no"), "{ended:?}");
    assert_eq!((office.promotions(), office.site.http("GET", "/notes", None).unwrap().body), (0, before));
    assert!(office.site.is_up());
    says(&office.site.lifeboat(&["approve", "nothing"]).expect(2), &["no approval `nothing`", "approvals list"]);
}

#[test]
fn who_started_a_run_does_not_approve_it_unless_the_environment_says_so() {
    let office = Office::open("needed = 1");
    let parked = office.as_user("alice", &["--json", "run", "restore"]).expect(13).json();
    let run = parked["run"].as_str().unwrap();
    let approval = office.open_approval(run);
    assert_eq!(office.shown(&approval)["can-sign"], json!(["bob", "carol"]));
    says(&office.approve("alice", &approval).expect(1), &["alice started the run", "self-approval is off"]);
    assert_eq!(office.votes(run), 0);
    // Whoever resumes it, alice began it.
    office.resume(run).expect(13);
    office.approve("bob", &approval).expect(0);
    office.site.configure(&[("needed = 1", "needed = 1\nself-approval = true")]);
    office.resume(run).expect(0);

    let parked = office.as_user("alice", &["--json", "run", "restore"]).expect(13).json();
    let run = parked["run"].as_str().unwrap();
    office.approve("alice", &office.open_approval(run)).expect(0);
    office.resume(run).expect(0);
    let parked = office.as_user("alice", &["--json", "run", "restore"]).expect(13).json();
    let run = parked["run"].as_str().unwrap();
    office.approve("alice", &office.open_approval(run)).expect(0);
    // What was signed says how many are needed.
    office.site.configure(&[("needed = 1", "needed = 2")]);
    says(&office.approve("bob", &office.open_approval(run)).expect(1), &["asks for other signatures now"]);
    assert_eq!(office.resume(run).expect(14).json()["status"], "rejected");
}

#[test]
fn an_approval_that_expired_and_one_that_is_stale_are_ends() {
    let office = Office::open("time-to-live-s = 4");
    let (run, approval) = {
        let parked = office.as_user("dave", &["--json", "run", "restore"]).expect(13).json();
        let all = office.site.lifeboat(&["--json", "approvals", "list", "--all"]).expect(0).json();
        (parked["run"].as_str().unwrap().to_owned(), all[0]["approval"].as_str().unwrap().to_owned())
    };
    wait_until("it has expired", || office.shown(&approval)["state"] == "expired");
    says(&office.approve("alice", &approval).expect(1), &["takes no vote: it expired 20"]);
    assert_eq!(office.votes(&run), 0);
    assert!(office.site.lifeboat(&["--json", "approvals", "list"]).json().as_array().unwrap().is_empty());
    let ended = office.resume(&run).expect(14);
    assert!(ended.json()["summary"].as_str().unwrap().contains("has expired"), "{ended:?}");
    assert!(decision(&office.site.show(&run))["expired"].is_number());

    // Signed in time, used too late.
    office.site.configure(&[("time-to-live-s = 4", "time-to-live-s = 600")]);
    let (run, approval) = office.parked();
    office.approve("alice", &approval).expect(0);
    // Another directory takes the name: its content is the same, its identity is not.
    let live = office.site.path("live/attachments");
    fs::rename(&live, office.site.path("live/before")).unwrap();
    tool(Command::new("cp").arg("-a").arg(office.site.path("live/before")).arg(&live));
    says(&office.approve("bob", &approval).expect(1), &["it is stale: the live data or the candidate are not those"]);
    assert_eq!(office.votes(&run), 1);
    let ended = office.resume(&run).expect(14);
    assert!(ended.json()["summary"].as_str().unwrap().contains("is stale"), "{ended:?}");
    assert!(decision(&office.site.show(&run))["stale"].is_string());
    assert_eq!((office.shown(&approval)["state"].as_str(), office.promotions()), (Some("stale"), 0));
    says(&office.approve("bob", &approval).expect(1), &["takes no vote: it is stale"]);
    assert!(office.site.is_up());
}

#[test]
fn whoever_writes_the_state_does_not_approve() {
    let office = Office::open("needed = 2");
    let (run, approval) = office.parked();
    let parks = |why: &str| {
        assert_eq!(office.resume(&run).code, 13, "{why}");
        assert_eq!(office.promotions(), 0, "{why}");
    };
    for how in ["signatures", "typed-phrase", "yes-flag", "break-glass"] {
        office.sql(&format!(
            "update approval set state = 'approved', decided_by = 'alice, bob', how = '{how}', decided_ms = 1 where id = '{approval}'"
        ));
        parks(how);
    }
    // Good votes of both, on another run: their signatures are copied, with records made to fit.
    let (other_run, other) = office.parked();
    let mut signatures = Vec::new();
    for name in ["alice", "bob"] {
        office.approve(name, &other).expect(0);
        let vote = records(&office.site.show(&other_run), "voted").last().unwrap()["signature"].clone();
        signatures.push((name, vote.as_str().unwrap().to_owned()));
    }
    for (name, signature) in &signatures {
        let line =
            json!({"kind": "voted", "approval": approval, "vote": "approve", "approver": name, "signature": signature});
        office.sql(&format!(
            "insert into log (seq, run, step, kind, time_ms, line, hash)
             select max(seq) + 1, '{run}', null, 'voted', max(time_ms), '{line}', 'made up' from log"
        ));
    }
    assert_eq!(office.votes(&run), 2, "the forged votes are read");
    let shown = office.site.lifeboat(&["approvals", "show", &approval]).expect(0);
    says(&shown, &["0 of 2", "does not count: the signature of alice is not one of this text"]);
    parks("copied signatures");
    // The whole intent of the other one, signatures and all: the run is another's.
    office.sql(&format!(
        "update approval set intent = (select intent from approval where id = '{other}'),
         intent_sha256 = (select intent_sha256 from approval where id = '{other}') where id = '{approval}'"
    ));
    let ended = office.resume(&run).expect(14);
    assert!(ended.json()["summary"].as_str().unwrap().contains("stale"), "{ended:?}");

    // The key that counts is the one that the environment names now.
    let carol = fs::read_to_string(office.key("carol").with_extension("pub")).unwrap();
    let bob = fs::read_to_string(office.key("bob").with_extension("pub")).unwrap();
    make_key(&office.key("new"), "ed25519");
    let new = fs::read_to_string(office.key("new").with_extension("pub")).unwrap();
    assert_ne!(carol, new);
    office.site.configure(&[(bob.trim(), new.trim())]);
    assert_eq!(office.shown(&other)["given"], json!(["alice"]));
    office.resume(&other_run).expect(13);
    assert_eq!(office.promotions(), 0);
    office.site.configure(&[(new.trim(), bob.trim())]);
    office.resume(&other_run).expect(0);
    assert_eq!(office.promotions(), 1);

    // Other words, shown to whoever signs: nobody signs them.
    let (third_run, third) = office.parked();
    office.sql(&format!(
        "update approval set intent = json_set(intent, '$.consequence', 'nothing to speak of') where id = '{third}'"
    ));
    let refused = office.approve("alice", &third).expect(5);
    assert!(refused.stderr.contains("does not say what its run asked for"), "{refused:?}");
    assert_eq!(office.votes(&third_run), 0);
}

/// Resumes a run at a terminal where someone types a line; exit code and everything shown.
fn at_terminal(office: &Office, run: &str, typed: &str) -> (i32, String) {
    let command = format!("{} runs resume {run}", lifeboat().display());
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).current_dir(office.site.path("")).env_remove("LIFEBOAT_CONFIG");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Kept open until the run is over: a terminal that goes away gives no answer.
    let mut keyboard = child.stdin.take().unwrap();
    keyboard.write_all(format!("{typed}\n").as_bytes()).unwrap();
    let mut shown = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut shown).unwrap();
    drop(keyboard);
    (child.wait().unwrap().code().unwrap_or(-1), shown)
}

#[test]
fn a_typed_phrase_counts_only_where_the_environment_says_so() {
    let office = Office::open("needed = 1");
    let (run, _) = office.parked();
    let (code, shown) = at_terminal(&office, &run, "notes");
    assert_eq!((code, office.promotions()), (13, 0), "{shown}");
    assert!(shown.contains("who can sign: alice, bob, carol") && !shown.contains("to approve, type"), "{shown}");
    says(&office.as_user("dave", &["runs", "resume", &run, "--yes"]).expect(2), &["approvers sign", "approvals list"]);
    office.site.configure(&[("needed = 1", "typed-phrase = true")]);
    let (code, shown) = at_terminal(&office, &run, "notes");
    assert_eq!((code, office.promotions()), (0, 1), "{shown}");
    let decision = decision(&office.site.show(&run));
    assert_eq!(decision["how"], "typed-phrase", "{decision}");
}

#[test]
fn a_phrase_is_consent_also_where_signatures_were_and_do_not_hold_any_more() {
    let office = Office::open("needed = 1");
    let (run, approval) = office.parked();
    office.approve("alice", &approval).expect(0);
    let alice = fs::read_to_string(office.key("alice").with_extension("pub")).unwrap();
    make_key(&office.key("new"), "ed25519");
    let new = fs::read_to_string(office.key("new").with_extension("pub")).unwrap();
    office.site.configure(&[("needed = 1", "typed-phrase = true"), (alice.trim(), new.trim())]);
    let (code, shown) = at_terminal(&office, &run, "notes");
    assert_eq!((code, office.promotions()), (0, 1), "{shown}");
    assert_eq!(office.shown(&approval)["how"], "typed-phrase");
}

#[test]
fn the_glass_is_broken_only_where_allowed_and_loudly() {
    let office = Office::open("needed = 2\ngroups = [\"dba\"]");
    let (run, approval) = office.parked();
    let carol = office.key_text("carol");
    let glass =
        |reason: &str| office.as_user("dave", &["approve", &approval, "--key", &carol, "--break-glass", reason]);
    says(&glass("nobody answers").expect(1), &["not allowed in this environment", "break-glass = true"]);
    office.site.configure(&[("needed = 2\n", "needed = 2\nbreak-glass = true\n")]);
    says(&glass(" ").expect(2), &["needs a reason"]);
    says(&glass(&"long ".repeat(101)).expect(2), &["at most 500 bytes"]);
    assert_eq!(office.votes(&run), 0);
    says(
        &glass("alice and bob do not answer, and the service is down").expect(0),
        &["THE GLASS IS BROKEN: carol approves promote of notes alone", "WARN", "the glass was broken"],
    );
    let ended = office.resume(&run).expect(0).json();
    let findings = ended["findings"].as_array().unwrap();
    let finding = findings.iter().find(|f| f["rule"] == "break-glass").unwrap_or_else(|| panic!("{ended}"));
    assert_eq!(finding["severity"], "warning");
    assert!(finding["message"].as_str().unwrap().contains("carol broke the glass"), "{finding}");
    let decision = decision(&office.site.show(&run));
    assert_eq!((&decision["how"], &decision["approved-by"]), (&json!("break-glass"), &json!("carol")));
    assert!(decision["reason"].as_str().unwrap().contains("the service is down"), "{decision}");
}

#[test]
fn signatures_of_every_kind_of_key_that_is_taken_verify_and_no_others() {
    let desk = tempfile::tempdir().unwrap();
    let text = "{\"a text\":\"to sign\"}";
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let (key, file) = (desk.path().join(kind), desk.path().join(format!("{kind}.txt")));
        make_key(&key, kind);
        fs::write(&file, text).unwrap();
        let public = Key::read(&fs::read_to_string(key.with_extension("pub")).unwrap()).unwrap();
        let listed = tool(Command::new("ssh-keygen").arg("-lf").arg(&key));
        assert!(listed.contains(&format!(" {} ", public.fingerprint())), "{listed}");
        // More than one: in one of 256, a number of an ECDSA signature is a byte shorter.
        for _ in 0..if kind == "ecdsa" { 40 } else { 1 } {
            let armor = fs::read_to_string(sign(&key, "approval@lifeboat", &file)).unwrap();
            let signature = Signature::read(&armor).unwrap_or_else(|why| panic!("{kind}: {why}: {armor}"));
            assert_eq!(signature.armor(), armor.trim_end());
            public.verify("approval@lifeboat", text, &signature).unwrap_or_else(|why| panic!("{kind}: {why}"));
            assert!(public.verify("approval@lifeboat", "{\"a text\":\"to Sign\"}", &signature).is_err(), "{kind}");
            assert!(public.verify("denial@lifeboat", text, &signature).is_err(), "{kind}");
        }
    }
    for (kind, says) in [("ecdsa", "not taken"), ("rsa", "1024 bits")] {
        let key = desk.path().join(format!("{kind}-weak"));
        let bits = if kind == "rsa" { "1024" } else { "384" };
        tool(Command::new("ssh-keygen").args(["-q", "-t", kind, "-b", bits, "-N", "", "-f"]).arg(&key));
        let error = Key::read(&fs::read_to_string(key.with_extension("pub")).unwrap()).unwrap_err();
        assert!(error.contains(says), "{kind}: {error}");
    }
}
