//! The host that takes backups may put them, and neither list, read nor remove.

use host_api::bindings::Identities;
use host_api::stores::testing::Moto;

use crate::signing::crash::killed_and_resumed;
use crate::support::Site;

/// A site whose only store takes what is put; and the same bucket for whoever may read and remove.
fn site(not_read: &str) -> Option<(Site, Site, Moto)> {
    let (moto, identities) = Moto::guarded()?;
    let mut site = Site::notes();
    site.store_in_bucket("offsite", "offsite", &moto, &Identities { write: identities.write, ..Identities::default() });
    site.configure(&[(
        "parameters = { service = \"notes\", store = \"local\", copy-to = [\"offsite\"] }",
        &format!("parameters = {{ service = \"notes\", {not_read} }}"),
    )]);
    site.configure(&[("\"dump.take service=notes store=local\"", "\"dump.take service=notes store=*\"")]);
    site.serve_some_notes();
    let reader = Site::notes();
    let identities = Identities { read: identities.read, delete: identities.delete, write: None };
    reader.store_in_bucket("offsite", "offsite", &moto, &identities);
    Some((site, reader, moto))
}

fn ids(reader: &Site) -> Vec<String> {
    let all = reader.lifeboat(&["--json", "backups", "list", "--store", "offsite"]).expect(0).json();
    all.as_array().unwrap().iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_backup_goes_straight_there_and_what_can_not_be_done_is_said() {
    let Some((site, reader, _moto)) = site("store = \"offsite\", not-read = [\"offsite\"]") else { return };
    let run = site.run("backup", &[]).expect(0);
    assert!(run.said().contains("is in offsite (not read back from offsite)"), "{run:?}");
    let all = ids(&reader);
    assert_eq!(all.len(), 1);
    reader.lifeboat(&["backups", "verify", &all[0], "--store", "offsite", "--depth", "checksum"]).expect(0);

    // Read back from a store that can't be read: the backup is there, and the run does not call it checked.
    let read_back = site.run("backup", &["--param", "not-read=[]"]);
    assert!(read_back.code != 0 && read_back.said().contains("no identity that may list or read"), "{read_back:?}");
    assert!(read_back.said().contains("identity.read"), "{read_back:?}");
    assert_eq!(ids(&reader).len(), 2);
    let listed = site.lifeboat(&["backups", "list", "--store", "offsite"]);
    assert!(listed.code != 0 && listed.said().contains("[environment.E.store.offsite.identity.read]"), "{listed:?}");
    let drill = site.run("drill", &["--param", "store=offsite"]);
    assert!(drill.code != 0 && drill.said().contains("no identity that may list or read"), "{drill:?}");
    let check = site.lifeboat(&["--json", "check"]).json();
    let of = |name: &str| {
        let all = check["checks"].as_array().unwrap();
        all.iter().find(|c| c["check"] == name || c["name"] == name).unwrap_or_else(|| panic!("{check}")).clone()
    };
    assert_eq!(of("store.offsite.reachable")["level"], "unknown");
    assert_eq!(of("store.offsite.identities")["level"], "ok");
    // What was sent is remembered, and no more is known.
    let known = site.lifeboat(&["--json", "backups", "reindex", "--store", "offsite"]).expect(3).json();
    assert_eq!(known["places"][0]["holds"]["sent"].as_array().unwrap().len(), 2, "{known:#}");
    // What may not be looked at is not missing.
    for name in ["backup.age", "backup.verified", "backup.copies"] {
        assert_eq!(of(name)["level"], "unknown", "{check:#}");
    }
}

#[test]
fn it_is_taken_once_wherever_its_engine_dies() {
    let Some((site, reader, _moto)) = site("store = \"offsite\", not-read = [\"offsite\"]") else { return };
    for (at, place) in ["before the manifest", "manifest kept", "manifest written"].into_iter().enumerate() {
        killed_and_resumed(&site, place, "backup", &[]);
        assert_eq!(ids(&reader).len(), at + 1, "{place}");
    }
}

#[test]
fn a_copy_is_made_there_and_gone_on_with() {
    let Some((site, reader, _moto)) = site("store = \"local\", copy-to = [\"offsite\"], not-read = [\"offsite\"]")
    else {
        return;
    };
    for (at, place) in ["object copied", "manifest copied"].into_iter().enumerate() {
        killed_and_resumed(&site, place, "backup", &[]);
        assert_eq!(ids(&reader).len(), at + 1, "{place}");
    }
    for id in ids(&reader) {
        reader.lifeboat(&["backups", "verify", &id, "--store", "offsite", "--depth", "content"]).expect(0);
    }
}

#[test]
fn what_the_machine_has_is_used_where_that_is_asked_for_and_nowhere_else() {
    let Some((moto, identities)) = Moto::guarded() else { return };
    let reader = identities.read.unwrap();
    let text = |secret: &Option<host_api::bindings::Secret>| secret.as_ref().unwrap().read().unwrap();
    let (id, key) = (text(&reader.access_key_id), text(&reader.secret_access_key));
    let list = |site: &Site| {
        let mut command = site.command(&["backups", "list", "--store", "offsite"]);
        command.env("AWS_ACCESS_KEY_ID", &id).env("AWS_SECRET_ACCESS_KEY", &key);
        // The machine that the test runs on may be somebody in a cloud.
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", site.path("")).output().unwrap()
    };
    let asked = Site::notes();
    asked.store_in_bucket("offsite", "offsite", &moto, &Identities::default());
    asked.configure(&[("path-style = true\n", "path-style = true\ncredentials = { default-chain = true }\n")]);
    let listed = list(&asked);
    assert_eq!(listed.status.code(), Some(4), "it was read, and holds nothing: {listed:?}");

    let own = Site::notes();
    let write = Identities { read: identities.write, ..Identities::default() };
    own.store_in_bucket("offsite", "offsite", &moto, &write);
    let refused = list(&own);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() != Some(4) && said.contains("refuses it to this identity"), "{refused:?}");
}
