//! `lifeboat approvals`, `approve` and `deny`: what is asked, and votes on it.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use engine::Result;
use engine::approvals::rules::Rules;
use engine::approvals::votes::{self, Asked, Choice, Tally, Vote};
use engine::approvals::voting::{self, Ballot};
use engine::approvals::{fresh, lines_of};
use engine::config::Config;
use engine::direct::NO_MODULE;
use engine::error::{Error, Kind};
use engine::journal::{ApprovalRow, ApprovalState, State, Transition};
use host_api::identifier;
use serde_json::{Value, json};

use crate::signing::{self, SignWith};
use crate::{Global, output};

/// Longest signature file that is read.
const SIGNATURE_BYTES_MAX: u64 = 64 << 10;

/// Verbs of `approvals`.
#[derive(Subcommand)]
pub enum Verb {
    /// What waits for an answer, oldest first: what is asked, how many signatures there are, who is missing.
    List {
        /// Also what is answered, spent, expired or stale.
        #[arg(long)]
        all: bool,
    },
    /// What a person must read before answering.
    Show {
        /// The approval.
        approval: String,
        /// Also write the exact text to sign into a file, to be carried to where the key is.
        #[arg(long, value_name = "FILE")]
        intent: Option<PathBuf>,
    },
}

/// Arguments of `approve`.
#[derive(Args)]
pub struct Approve {
    #[command(flatten)]
    vote: VoteArguments,
    /// Approve alone, whatever number and groups are asked for; only where the environment allows it. Loud, and on record.
    #[arg(long, value_name = "REASON")]
    break_glass: Option<String>,
}

/// Arguments of `deny`.
#[derive(Args)]
pub struct Deny {
    #[command(flatten)]
    vote: VoteArguments,
}

/// Arguments of every vote.
#[derive(Args)]
struct VoteArguments {
    /// The approval.
    approval: String,
    /// Sign with this key file, by ssh-keygen; without, the SSH agent signs with the key that the environment names.
    #[arg(long, value_name = "FILE", conflicts_with = "signature")]
    key: Option<PathBuf>,
    /// Take in a signature that was made elsewhere, from the carried intent.
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Whose vote it is; without, found by the key.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

/// An approval and what is known around it.
struct Case {
    row: ApprovalRow,
    text: String,
    rules: Rules,
    votes: Vec<Vote>,
    run_is_over: bool,
}

impl Case {
    async fn of(config: &Config, state: &State, row: ApprovalRow) -> Result<Self> {
        let environment = row.intent["environment"].as_str().unwrap_or_default();
        let rules = config.environment(Some(environment))?.binding.approval_rules()?;
        let votes = state.records_of(&row.run, Transition::Voted).await?;
        let votes = votes.iter().filter_map(Vote::of).filter(|v| v.approval == row.id).collect();
        let run_is_over = state.run(&row.run).await?.ended_ms.is_some();
        Ok(Self { text: row.intent.to_string(), rules, votes, run_is_over, row })
    }

    fn asked(&self) -> Asked<'_> {
        Asked { approval: &self.row.id, text: &self.text, body: &self.row.intent }
    }

    fn tally(&self) -> Tally {
        votes::tally(&self.rules, self.asked(), &self.votes)
    }

    /// Where it stands, in a word; what the state calls open may be over all the same.
    fn state(&self) -> &'static str {
        match self.row.state {
            ApprovalState::Open | ApprovalState::Approved if self.run_is_over => "run over",
            ApprovalState::Open | ApprovalState::Approved if self.asked().is_expired(identifier::now_ms()) => "expired",
            state => state.word(),
        }
    }

    fn waits(&self) -> bool {
        matches!(self.state(), "open" | "approved")
    }

    /// How many count, of how many.
    fn count(&self) -> String {
        let given = match self.tally() {
            Tally::Missing { by, .. } | Tally::Approved { by, broke_glass: None } => by.len().to_string(),
            Tally::Approved { .. } => "broken glass".into(),
            Tally::Denied { .. } => "denied".into(),
        };
        format!("{given} of {}", self.rules.rule(self.asked().action()).needed)
    }

    /// Whether it is asked by a run by hand. That can't be resumed: the command that asked waits for the answer itself.
    fn by_hand(&self) -> bool {
        self.row.intent["module-sha256"] == NO_MODULE
    }

    fn goes_on(&self) -> String {
        match self.by_hand() {
            true => "the command that asked goes on by itself".into(),
            false => format!("go on with: lifeboat runs resume {}", self.row.run),
        }
    }

    fn how(&self) -> Vec<String> {
        let signed = matches!(self.tally(), Tally::Approved { .. });
        let phrase = self.rules.takes_phrase(self.asked().action());
        let mut lines = Vec::new();
        if self.waits() && !self.rules.approvers.is_empty() && !signed {
            let Tally::Missing { by, void } = self.tally() else { return lines };
            lines.extend(votes::how_to_approve(&self.rules, self.asked(), &by));
            lines.extend(void.iter().map(|why| format!("does not count: {why}")));
        }
        if self.waits() && phrase && !signed {
            lines.push(match self.by_hand() {
                true => "it is answered at the terminal of the command that asked".into(),
                false => format!("to answer at a terminal: lifeboat runs resume {}", self.row.run),
            });
        }
        if self.waits() && signed {
            lines.push(format!("it has what it needs; {}", self.goes_on()));
        }
        lines
    }

    fn json(&self) -> Value {
        let tally = self.tally();
        let given = match &tally {
            Tally::Missing { by, .. } | Tally::Approved { by, .. } => by.clone(),
            Tally::Denied { .. } => Vec::new(),
        };
        let rule = self.rules.rule(self.asked().action());
        let votes = self
            .votes
            .iter()
            .map(|v| json!({"approver": v.approver, "vote": v.choice.word(), "at-ms": v.time_ms, "reason": v.reason}));
        json!({
            "approval": self.row.id, "run": self.row.run, "state": self.state(), "intent": self.row.intent,
            "intent-sha256": self.row.intent_sha256, "needed": rule.needed, "given": given,
            "can-sign": self.rules.who_counts(self.asked().action(), self.asked().actor()),
            "votes": votes.collect::<Vec<_>>(), "decided-by": self.row.decided_by, "how": self.row.how,
        })
    }
}

/// Runs a verb of `approvals`.
pub async fn run(global: &Global, verb: Verb) -> Result<u8> {
    let config = global.load()?;
    let state = config.open_state().await?;
    match verb {
        Verb::List { all } => list(global, &config, &state, all).await?,
        Verb::Show { approval, intent } => {
            let case = Case::of(&config, &state, state.approval(&approval).await?).await?;
            if let Some(file) = &intent {
                write_whole(file, &case.text)?;
                output::say(&format!("wrote the text to sign, {} bytes, to {}", case.text.len(), file.display()));
            }
            show(global, &case)?;
        }
    }
    Ok(0)
}

async fn list(global: &Global, config: &Config, state: &State, all: bool) -> Result<()> {
    let mut cases = Vec::new();
    for row in state.approvals(None).await? {
        // One of an environment that is not configured any more can't be answered.
        match Case::of(config, state, row).await {
            Ok(case) if all || case.waits() => cases.push(case),
            Ok(_) => {}
            Err(error) if all => output::say(&format!("not listed: {}", error.message)),
            Err(_) => {}
        }
    }
    if global.json {
        return output::json(&cases.iter().map(Case::json).collect());
    }
    let rows: Vec<_> = cases
        .iter()
        .map(|c| {
            let body = &c.row.intent;
            let word = |key: &str| body[key].as_str().unwrap_or("?").to_owned();
            vec![
                c.row.id.clone(),
                format!("{} {}", word("action"), word("service")),
                word("environment"),
                c.row.run.clone(),
                c.state().to_owned(),
                c.count(),
                identifier::utc(c.asked().expires_ms()),
            ]
        })
        .collect();
    output::table(&["approval", "asks to", "environment", "run", "state", "signatures", "expires"], &rows)
}

fn show(global: &Global, case: &Case) -> Result<()> {
    if global.json {
        return output::json(&case.json());
    }
    output::line(&format!("approval {} · {} · {}", case.row.id, case.state(), case.count()))?;
    for line in lines_of(&case.row.intent) {
        output::line(&format!("  {line}"))?;
    }
    for identity in case.row.intent["identities"].as_object().into_iter().flatten() {
        output::line(&format!(
            "  binds {}: {}",
            identifier::shown(identity.0),
            identifier::shown_long(&identity.1.to_string())
        ))?;
    }
    output::line(&format!("  object: {}", identifier::shown_long(&case.row.intent["object"].to_string())))?;
    for key in ["module-sha256", "grants-sha256"] {
        output::line(&format!("  {key}: {}", identifier::shown(case.row.intent[key].as_str().unwrap_or("?"))))?;
    }
    output::line(&format!("  sha256 of the text to sign: {}", identifier::shown(&case.row.intent_sha256)))?;
    for vote in &case.votes {
        let reason = vote.reason.as_ref().map(|r| format!(": {}", identifier::shown_long(r))).unwrap_or_default();
        let (at, who) = (identifier::utc(vote.time_ms), identifier::shown(&vote.approver));
        output::line(&format!("{at} {who}: {}{reason}", vote.choice.word()))?;
    }
    case.how().iter().try_for_each(|line| output::line(line))
}

/// Runs `approve`.
pub async fn approve(global: &Global, arguments: Approve) -> Result<u8> {
    let choice = if arguments.break_glass.is_some() { Choice::BreakGlass } else { Choice::Approve };
    vote(global, &arguments.vote, choice, arguments.break_glass.as_deref()).await
}

/// Runs `deny`.
pub async fn deny(global: &Global, arguments: Deny) -> Result<u8> {
    vote(global, &arguments.vote, Choice::Deny, None).await
}

async fn vote(global: &Global, arguments: &VoteArguments, choice: Choice, reason: Option<&str>) -> Result<u8> {
    let config = global.load()?;
    let state = config.open_state().await?;
    let case = Case::of(&config, &state, state.approval(&arguments.approval).await?).await?;
    if case.rules.approvers.is_empty() {
        return Err(Error::new(Kind::Usage, "no approver is configured in this environment")
            .hint(format!("answer at a terminal: lifeboat runs resume {}", case.row.run)));
    }
    // Before anyone is asked for a passphrase or a touch.
    voting::answerable(&case.row, case.asked(), case.run_is_over, choice, identifier::now_ms())?;
    if choice != Choice::Deny {
        let environment = config.environment(case.row.intent["environment"].as_str())?;
        fresh::check(&host_api::Host::of(environment.host()?), &state, &case.rules, &case.row).await?;
    }
    let signature = match &arguments.signature {
        Some(file) => read_signature(file)?,
        None => {
            let actor = engine::config::actor();
            let with = match &arguments.key {
                Some(file) => SignWith::File(file),
                None => SignWith::Agent(agent_key(&case.rules, arguments.name.as_deref(), &actor)?),
            };
            lines_of(&case.row.intent).iter().for_each(|line| output::say(&format!("  {line}")));
            signing::sign(&with, choice.namespace(), &case.text)?
        }
    };
    let ballot = Ballot {
        choice,
        signature: &signature,
        approver: arguments.name.as_deref(),
        reason,
        by: &crate::run::by_hand(),
    };
    let taken = voting::take(&state, &case.rules, &case.row.id, &ballot, identifier::now_ms()).await?;
    if choice == Choice::BreakGlass && taken.is_new {
        output::say(&format!(
            "warning: THE GLASS IS BROKEN: {} approves {} of {} alone; it is on record, and the run will say so",
            taken.approver,
            case.asked().action(),
            identifier::shown(case.row.intent["service"].as_str().unwrap_or("?"))
        ));
    }
    let case = Case::of(&config, &state, state.approval(&arguments.approval).await?).await?;
    if global.json {
        let mut said = case.json();
        said["approver"] = json!(taken.approver);
        said["recorded"] = json!(taken.is_new);
        output::json(&said)?;
        return Ok(0);
    }
    let again = if taken.is_new { "" } else { " already; nothing is added" };
    output::line(&format!("{}: {} is on record{again}", taken.approver, choice.word()))?;
    match &taken.tally {
        Tally::Denied { .. } => output::line(&format!("the run ends when it goes on; {}", case.goes_on()))?,
        _ => case.how().iter().try_for_each(|line| output::line(line))?,
    }
    Ok(0)
}

/// The public key that the agent is asked for: of who is named, else of who acts.
fn agent_key(rules: &Rules, name: Option<&str>, actor: &str) -> Result<String> {
    let names = || rules.approvers.keys().map(String::as_str);
    let approver = match name {
        Some(name) => rules.approvers.get(name).ok_or_else(|| Error::unknown("approver", name, names()))?,
        None => rules.approvers.values().find(|a| a.is_actor(actor)).ok_or_else(|| {
            Error::new(Kind::Usage, format!("no approver is {}", identifier::shown(actor)))
                .hint(format!("say who with --as: {}; or sign with --key FILE", Vec::from_iter(names()).join(", ")))
        })?,
    };
    Ok(approver.key.line())
}

fn read_signature(file: &std::path::Path) -> Result<String> {
    use std::io::Read;
    let failed = |e: std::io::Error| Error::new(Kind::Usage, format!("signature {}: {e}", file.display()));
    let mut text = String::new();
    std::fs::File::open(file).map_err(failed)?.take(SIGNATURE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a file whole or not at all.
fn write_whole(file: &std::path::Path, text: &str) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let directory = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
        let mut temporary = tempfile::NamedTempFile::new_in(directory)?;
        temporary.write_all(text.as_bytes())?;
        temporary.as_file().sync_all()?;
        temporary.persist(file)?;
        Ok(())
    };
    write().map_err(|e| Error::new(Kind::Failed, format!("intent {}: {e}", file.display())))
}
