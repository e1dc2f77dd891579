//! Stores of other clouds through the command line: backed up, copied, read back, drilled.

use std::fmt::Write;

use host_api::bindings::{Right, Store};
use host_api::stores::testing::{Azurite, Gcs};

use crate::support::Site;

/// The tables of a store whose identities have one secret each, in a file.
fn tables(head: &str, store: &Store) -> String {
    let mut text = head.to_owned();
    for (who, secret) in store.secrets() {
        let (identity, key) = who.rsplit_once('.').unwrap();
        let file = secret.file.as_ref().unwrap().display();
        writeln!(text, "[environment.demo.store.offsite.{identity}]\n{key} = {{ file = \"{file}\" }}").unwrap();
    }
    text
}

/// A backup is copied to the store, read back there to its content, restored from there and compared.
fn serves(store: &str) {
    let mut site = Site::notes();
    let header = "[environment.demo.store.offsite]\n";
    site.configure(&[(&format!("{header}kind = \"directory\"\npath = \"offsite\"\n"), &format!("{header}{store}"))]);
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    let all = site.lifeboat(&["--json", "backups", "list", "--store", "offsite"]).expect(0).json();
    let id = all[0]["id"].as_str().unwrap().to_owned();
    site.lifeboat(&["backups", "verify", &id, "--store", "offsite", "--depth", "content"]).expect(0);
    let drill = site.run("drill", &["--param", "store=offsite"]).expect(0);
    assert!(drill.said().contains(&format!("backup {id} was restored, compared and served")), "{drill:?}");
    let check = site.lifeboat(&["--json", "check", "--only", "store.offsite"]).json();
    assert_eq!(check["level"], "ok", "{check}");
}

#[test]
fn azure_serves_as_a_store() {
    let Some(azurite) = Azurite::start() else { return };
    let binding = azurite.store(azurite.port(), azurite.identities(&Right::ALL));
    let head = format!(
        "kind = \"azure\"\naccount = \"{}\"\ncontainer = \"{}\"\nprefix = \"{}\"\nendpoint = \"{}\"\n",
        binding.account,
        binding.container,
        binding.prefix,
        binding.endpoint()
    );
    serves(&tables(&head, &Store::Azure(binding)));
}

#[test]
fn gcs_serves_as_a_store() {
    let server = Gcs::start();
    let binding = server.store(server.port(), &Right::ALL);
    let endpoint = binding.endpoint.clone().unwrap();
    let head = format!(
        "kind = \"gcs\"\nbucket = \"{}\"\nprefix = \"{}\"\nendpoint = \"{endpoint}\"\n",
        binding.bucket, binding.prefix
    );
    serves(&tables(&head, &Store::Gcs(binding)));
}
