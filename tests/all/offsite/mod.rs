//! A store in a bucket, through the command line: hosts that may only put, hosts that may only read.

mod clouds;
mod encrypted;
mod write_only;

use host_api::bindings::{Credentials, Identities};
use host_api::stores::testing::Moto;

use crate::support::Site;

impl Site {
    /// Replaces the store `name`, a directory in the example, by the bucket with these identities.
    pub fn store_in_bucket(&self, name: &str, directory: &str, moto: &Moto, identities: &Identities) {
        let header = format!("[environment.demo.store.{name}]\n");
        self.configure(&[(
            &format!("{header}kind = \"directory\"\npath = \"{directory}\"\n"),
            &format!("{header}{}", bucket("demo", name, moto, identities)),
        )]);
    }
}

/// The tables of a store in the bucket, without their first header.
pub fn bucket(environment: &str, name: &str, moto: &Moto, identities: &Identities) -> String {
    let mut text = format!(
        "kind = \"s3\"\nbucket = \"backups\"\nprefix = \"some/prefix\"\nregion = \"us-east-1\"\nendpoint = \"{}\"\npath-style = true\n",
        moto.endpoint()
    );
    let rights = [("write", &identities.write), ("read", &identities.read), ("delete", &identities.delete)];
    for (right, credentials) in rights {
        let Some(Credentials { access_key_id: Some(id), secret_access_key: Some(key), .. }) = credentials else {
            continue;
        };
        let file = |secret: &host_api::bindings::Secret| secret.file.as_ref().unwrap().display().to_string();
        text.push_str(&format!(
            "[environment.{environment}.store.{name}.identity.{right}]\naccess-key-id = {{ file = \"{}\" }}\nsecret-access-key = {{ file = \"{}\" }}\n",
            file(id),
            file(key)
        ));
    }
    text
}
