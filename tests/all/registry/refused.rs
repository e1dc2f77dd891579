//! What is not exactly what was asked for is refused, and what has no end is not read to it.

use std::time::Duration;

use engine::error::Kind;
use serde_json::json;

use super::{PATIENCE, artifact, fetched, otherwise};
use crate::support::registry::{Answer, Artifact, Body, Registry, sha256};

#[test]
fn an_artifact_is_fetched_with_its_signatures() {
    let artifact = artifact();
    let registry = Registry::of(&artifact);
    let found = fetched(&registry, &artifact.sha256(), None, PATIENCE).unwrap();
    assert_eq!(found.module, b"a module");
    let signatures: Vec<_> = found.signatures.iter().map(|(name, text)| (name.as_str(), &text[..])).collect();
    assert_eq!(signatures, [("", &b"one signature"[..]), ("security", b"another signature")]);
    // The configuration is not read.
    assert_eq!(registry.asked().len(), 4, "{:?}", registry.asked());
    assert!(registry.asked().iter().all(|asked| asked.authorization.is_none()));
}

#[test]
fn manifests_of_anything_else_are_refused_before_a_blob_is_asked_for() {
    let good = artifact;
    let mut index = good();
    index.manifest =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []});
    let mut both = good();
    both.manifest["manifests"] = json!([]);
    let mut twice = good();
    let module = twice.manifest["layers"][0].clone();
    twice.manifest["layers"].as_array_mut().unwrap().push(module);
    let mut many = good();
    let layers = (0..40).map(|n| json!({"mediaType": "application/vnd.lifeboat.signature.v1", "size": 1,
        "digest": format!("sha256:{n:064}"), "annotations": {"org.opencontainers.image.title": format!("nightly.wasm.s{n}.minisig")}}));
    many.manifest["layers"].as_array_mut().unwrap().extend(layers);
    let title = |text: &str| json!({"org.opencontainers.image.title": text});
    for (what, artifact, says) in [
        ("an index", index, "an index of several"),
        ("an index and a manifest at once", both, "an index of several"),
        (
            "Docker's own manifest",
            good().with("/mediaType", json!("application/vnd.docker.distribution.manifest.v2+json")),
            "not application/vnd.oci.image.manifest.v1+json",
        ),
        ("another version", good().with("/schemaVersion", json!(1)), "not application/vnd.oci"),
        ("no text of it", good().with("/schemaVersion", json!("2")), "can't be read"),
        ("no layers", good().with("/layers", json!(null)), "no config or no layers"),
        (
            "an image of a container",
            good().with("/config/mediaType", json!("application/vnd.oci.image.config.v1+json")),
            "no WebAssembly artifact",
        ),
        (
            "a layer of something else",
            good().with("/layers/0/mediaType", json!("application/vnd.oci.image.layer.v1.tar+gzip")),
            "a layer of it is `application/vnd.oci.image.layer.v1.tar+gzip`",
        ),
        (
            "signatures alone",
            good().with(
                "/layers/0",
                json!({"mediaType": "application/vnd.lifeboat.signature.v1",
            "digest": "sha256:0", "size": 1}),
            ),
            "0 layers of type application/wasm",
        ),
        ("two modules", twice, "2 layers of type application/wasm"),
        ("too many signatures", many, "43 layers"),
        ("too large a module", good().with("/layers/0/size", json!(134_217_729)), "at most 134217728 are read"),
        ("too large a signature", good().with("/layers/1/size", json!(4097)), "at most 4096 are read"),
        ("another kind of digest", good().with("/layers/0/digest", json!("sha512:00")), "is no sha256"),
        (
            "a digest that is a path",
            good().with("/layers/0/digest", json!(format!("sha256:{}/x", "0".repeat(62)))),
            "is no sha256",
        ),
        (
            "a signature of another file",
            good().with("/layers/1/annotations", title("other.wasm.minisig")),
            "a signature is called",
        ),
        ("a signature without a name", good().with("/layers/1/annotations", json!({})), "a signature is called"),
        (
            "a signature that is called a path",
            good().with("/layers/1/annotations", title("nightly.wasm.a/b.minisig")),
            "no name for a signature",
        ),
        (
            "two signatures of one name",
            good().with("/layers/1/annotations", title("nightly.wasm.security.minisig")),
            "stands there twice",
        ),
    ] {
        let registry = Registry::of(&artifact);
        let error = fetched(&registry, &artifact.sha256(), None, PATIENCE).expect_err(what);
        assert!(error.kind == Kind::PolicyRefused && error.message.contains(says), "{what}: {error}");
        assert_eq!(registry.asked().len(), 1, "{what}: {:?}", registry.asked());
    }
}

#[test]
fn another_manifest_and_other_blobs_are_refused() {
    let artifact = artifact();
    // A good manifest, and not the one that was asked for.
    let other = Artifact::new(b"another module", &[]);
    let registry =
        otherwise(&artifact, move |asked| asked.path.contains("/manifests/").then(|| Answer::ok(other.text())));
    let error = fetched(&registry, &artifact.sha256(), None, PATIENCE).unwrap_err();
    assert!(error.message.contains("not the one of that digest"), "{error}");
    assert_eq!(registry.asked().len(), 1);

    let (module, signature) = (sha256(b"a module"), sha256(b"one signature"));
    let said = |bytes: &[u8]| Answer::ok(bytes);
    let unsaid = |bytes: &[u8]| Answer::with(Body::Unsaid(bytes.to_vec()));
    for (blob, answer, says) in [
        (&module, said(b"b module"), "the module is not what its manifest says"),
        (&module, said(b"a module and more"), "the module has 17 bytes, and its manifest says 8"),
        (&module, unsaid(b"a module and more"), "the module has more than 8 bytes"),
        (&module, unsaid(b"a mod"), "the module is not what its manifest says"),
        (&module, unsaid(b""), "the module is not what its manifest says"),
        (&signature, said(b"eno signature"), "a signature is not what its manifest says"),
        (&signature, unsaid(b"one signature\n"), "a signature has more than 13 bytes"),
    ] {
        let of = blob.clone();
        let registry = otherwise(&artifact, move |asked| asked.path.ends_with(&of).then(|| answer.clone()));
        let error = fetched(&registry, &artifact.sha256(), None, PATIENCE).unwrap_err();
        assert!(error.kind == Kind::PolicyRefused && error.message.contains(says), "{says}: {error}");
        registry.was_asked(blob);
    }
}

#[test]
fn what_has_no_end_is_not_read_to_it() {
    let artifact = artifact();
    let endless = |part: &'static str| {
        otherwise(&artifact, move |asked| asked.path.contains(part).then(|| Answer::with(Body::Endless)))
    };
    let registry = endless("/manifests/");
    let error = fetched(&registry, &artifact.sha256(), None, PATIENCE).unwrap_err();
    assert!(error.message.contains("the manifest has more than 1048576 bytes"), "{error}");
    // It says that it is too large, and would have to be believed.
    let large = Answer::ok(vec![b' '; (1 << 20) + 1]);
    let registry = otherwise(&artifact, move |asked| asked.path.contains("/manifests/").then(|| large.clone()));
    let error = fetched(&registry, &artifact.sha256(), None, PATIENCE).unwrap_err();
    assert!(error.message.contains("the manifest has more than 1048576 bytes"), "{error}");
    let registry = endless("/blobs/");
    let error = fetched(&registry, &artifact.sha256(), None, PATIENCE).unwrap_err();
    assert!(error.message.contains("the module has more than 8 bytes"), "{error}");
    registry.was_asked("/blobs/");
    // And nothing at all is not waited for for ever.
    let registry = otherwise(&artifact, |_| Some(Answer::with(Body::Silence)));
    let error = fetched(&registry, &artifact.sha256(), None, Duration::from_secs(1)).unwrap_err();
    assert!(error.kind == Kind::Failed && error.message.contains("not over within 1 s"), "{error}");
    registry.was_asked("/manifests/");
}

#[test]
fn other_answers_and_none_are_said_as_they_are() {
    let artifact = artifact();
    for (answer, says) in [
        (Answer::status(404), "has not got the manifest (404)"),
        (Answer::status(500), "it answered 500"),
        (Answer::status(204), "it answered 204"),
        (Answer::status(307).header("Location", "/elsewhere"), "elsewhere for the manifest"),
    ] {
        let registry = otherwise(&artifact, move |_| Some(answer.clone()));
        let error = fetched(&registry, &artifact.sha256(), None, PATIENCE).unwrap_err();
        assert!(error.message.contains(says), "{error}");
        assert_eq!(registry.asked().len(), 1);
    }
    // Nobody is there any more.
    let port = crate::support::free_port();
    let gone =
        engine::policy::Reference::parse(&format!("oci://127.0.0.1:{port}/a@sha256:{}", artifact.sha256())).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(engine::registry::fetch(&gone, None, PATIENCE)).unwrap_err();
    assert!(error.kind == Kind::Failed && error.message.contains("refused"), "{error}");
}
