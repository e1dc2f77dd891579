//! Who is told a password or a token: the registry, whoever it names for tokens, and nobody that it sends us on to.

use engine::error::Kind;
use engine::policy::Reference;
use engine::registry::Login;

use super::{PATIENCE, artifact, fetched, otherwise};
use crate::support::registry::{Answer, Body, Registry, sha256};

/// `me:s3cret`
const PAIR: &str = "bWU6czNjcmV0";

fn login(registry: &Registry) -> Login {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, format!("{{\"auths\":{{\"127.0.0.1:{}\":{{\"auth\":\"{PAIR}\"}}}}}}", registry.port))
        .unwrap();
    Login::read(&file, &Reference::parse(&registry.reference(&"0".repeat(64))).unwrap()).unwrap()
}

fn refusal(challenge: &str) -> Answer {
    Answer::status(401).header("WWW-Authenticate", challenge)
}

#[test]
fn a_password_is_told_when_it_is_asked_for_and_not_before() {
    let artifact = artifact();
    let wants = format!("Basic {PAIR}");
    let registry = otherwise(&artifact, move |asked| {
        (asked.authorization.as_ref() != Some(&wants)).then(|| refusal("Basic realm=\"here\""))
    });
    fetched(&registry, &artifact.sha256(), Some(login(&registry)), PATIENCE).unwrap();
    let asked = registry.asked();
    assert_eq!(asked.len(), 5, "one more than without a login: {asked:?}");
    assert!(asked[0].authorization.is_none() && asked[1..].iter().all(|asked| asked.authorization.is_some()));
    // Without one.
    let error = fetched(&registry, &artifact.sha256(), None, PATIENCE).unwrap_err();
    assert!(error.kind == Kind::Failed && error.to_string().contains("--auth-file FILE"), "{error}");
    // A wrong one is told once.
    let registry = otherwise(&artifact, |_| Some(refusal("Basic realm=\"here\"")));
    let error = fetched(&registry, &artifact.sha256(), Some(login(&registry)), PATIENCE).unwrap_err();
    assert!(error.to_string().contains("may be wrong") && !error.to_string().contains(PAIR), "{error}");
    assert_eq!(registry.asked().len(), 2);
}

#[test]
fn a_token_is_asked_for_with_the_password_and_told_to_the_registry_alone() {
    let artifact = artifact();
    let tokens = Registry::start(|_| Answer::ok(r#"{"token": "t0ken"}"#));
    let challenge = format!(
        "Bearer realm=\"http://localhost:{}/token?a=b\",service=\"the registry\",scope=\"everything\"",
        tokens.port
    );
    let registry = otherwise(&artifact, move |asked| {
        (asked.authorization.as_deref() != Some("Bearer t0ken")).then(|| refusal(&challenge))
    });
    fetched(&registry, &artifact.sha256(), Some(login(&registry)), PATIENCE).unwrap();
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    // What is asked for is ours to say.
    assert_eq!(asked[0].path, "/token?a=b&scope=repository%3Avendor%2Fnightly%3Apull&service=the+registry");
    assert_eq!(asked[0].authorization.as_deref(), Some(&*format!("Basic {PAIR}")));
    assert!(
        registry.asked().iter().all(|asked| asked.authorization.as_deref().is_none_or(|told| told == "Bearer t0ken"))
    );
    // For what everybody may read, a token without a password.
    fetched(&registry, &artifact.sha256(), None, PATIENCE).unwrap();
    assert!(tokens.asked()[1].authorization.is_none());
}

#[test]
fn whoever_gives_tokens_is_not_believed_either() {
    let artifact = artifact();
    for (answer, says) in [
        (Answer::status(401), "does not let us in"),
        (Answer::status(500), "it answered 500"),
        (Answer::status(302).header("Location", "http://127.0.0.1:1/"), "elsewhere for a token"),
        (Answer::ok("hello"), "can't be read"),
        (Answer::ok("{}"), "can't be used"),
        (Answer::ok("{\"token\":\"a\\r\\nb\"}"), "can't be used"),
        (Answer::with(Body::Endless), "a token has more than 65536 bytes"),
    ] {
        let tokens = Registry::start(move |_| answer.clone());
        let challenge = format!("Bearer realm=\"http://127.0.0.1:{}/\"", tokens.port);
        let registry = otherwise(&artifact, move |_| Some(refusal(&challenge)));
        let error = fetched(&registry, &artifact.sha256(), Some(login(&registry)), PATIENCE).unwrap_err();
        assert!(error.message.contains(says), "{says}: {error}");
        assert_eq!((tokens.asked().len(), registry.asked().len()), (1, 1), "{says}");
    }
    for (challenge, says) in [
        ("Bearer realm=\"http://tokens.example/\"", "for a token to http://tokens.example, and that is not allowed"),
        ("Bearer realm=\"ftp://127.0.0.1/\"", "not allowed"),
        ("Bearer realm=\"file:///etc/passwd\"", "not allowed"),
        ("Bearer realm=\"https://a:b@tokens.example/\"", "not allowed"),
        ("Bearer realm=\"/token\"", "is no URL"),
        ("Negotiate", "not known here"),
        ("Bearer", "not known here"),
    ] {
        let registry = otherwise(&artifact, move |_| Some(refusal(challenge)));
        let error = fetched(&registry, &artifact.sha256(), Some(login(&registry)), PATIENCE).unwrap_err();
        assert!(error.kind == Kind::PolicyRefused && error.message.contains(says), "{challenge}: {error}");
        assert_eq!(registry.asked().len(), 1, "{challenge}");
    }
}

#[test]
fn who_keeps_the_blobs_is_not_told_who_asks() {
    let artifact = artifact();
    let module = sha256(b"a module");
    let elsewhere = Registry::start(|_| Answer::ok("a module"));
    let wants = format!("Basic {PAIR}");
    let send_to = |to: String| {
        let (module, wants) = (module.clone(), wants.clone());
        otherwise(&artifact, move |asked| {
            if asked.authorization.as_ref() != Some(&wants) {
                return Some(refusal("Basic realm=\"here\""));
            }
            match asked.path.as_str() {
                "/kept/module" => Some(Answer::ok("a module")),
                path => path.ends_with(&module).then(|| Answer::status(307).header("Location", to.clone())),
            }
        })
    };
    let registry = send_to(format!("http://127.0.0.1:{}/somewhere?signed=yes", elsewhere.port));
    fetched(&registry, &artifact.sha256(), Some(login(&registry)), PATIENCE).unwrap();
    let asked = elsewhere.asked();
    assert_eq!((asked.len(), asked[0].authorization.as_deref()), (1, None), "{asked:?}");
    // The registry itself knows it already.
    let registry = send_to("/kept/module".into());
    fetched(&registry, &artifact.sha256(), Some(login(&registry)), PATIENCE).unwrap();
    registry.was_asked("/kept/module");
    for (to, says) in [
        ("http://blobs.example/?token=s3cret", "on to http://blobs.example, and that is not allowed"),
        ("ftp://127.0.0.1/", "not allowed"),
        ("https://a:s3cret@blobs.example/", "not allowed"),
        ("http://[", "is no URL"),
    ] {
        let registry = send_to(to.into());
        let error = fetched(&registry, &artifact.sha256(), Some(login(&registry)), PATIENCE).unwrap_err();
        assert!(error.kind == Kind::PolicyRefused && error.message.contains(says), "{to}: {error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
        registry.was_asked(&module);
    }
    // To itself, again and again.
    let of = module.clone();
    let registry = otherwise(&artifact, move |asked| {
        asked.path.contains(&of).then(|| Answer::status(302).header("Location", asked.path.clone()))
    });
    let error = fetched(&registry, &artifact.sha256(), None, PATIENCE).unwrap_err();
    assert!(error.message.contains("more than 3 times"), "{error}");
    assert_eq!(registry.asked().len(), 5, "{:?}", registry.asked());
    // Another module there, whatever the registry says of it.
    let registry = send_to(format!("http://127.0.0.1:{}/", Registry::start(|_| Answer::ok("b module")).port));
    let error = fetched(&registry, &artifact.sha256(), Some(login(&registry)), PATIENCE).unwrap_err();
    assert!(error.message.contains("not what its manifest says"), "{error}");
}
