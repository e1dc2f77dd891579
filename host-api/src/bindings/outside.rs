//! What a service needs to be restored and to run, and that no backup of it holds: secrets, and files of TLS.

use std::path::Path;

use super::{Control, ScratchPostgres, Secret, Service, Source};

impl Service {
    /// Its secrets, each with where it is configured: `source db: password`. Whoever reads one must not show it.
    pub fn secrets(&self) -> Vec<(String, &Secret)> {
        let mut found = Vec::new();
        for (name, source) in &self.source {
            let Source::Postgres(postgres) = source else { continue };
            if let Some(password) = &postgres.password {
                found.push((format!("source {name}: password"), password));
            }
            if let Some(ScratchPostgres::Server(server)) = &postgres.scratch
                && let Some(password) = &server.password
            {
                found.push((format!("source {name}: password of the server for drills"), password));
            }
        }
        if let Some(Control::Child(child)) = &self.control {
            found.extend(child.secret.iter().map(|(name, secret)| (format!("control: secret {name}"), secret)));
        }
        if let Some(scratch) = &self.scratch {
            found.extend(scratch.secret.iter().map(|(name, secret)| (format!("scratch: secret {name}"), secret)));
        }
        for (endpoint, binding) in &self.endpoint {
            let headers = binding.header.iter();
            found.extend(headers.map(|(name, secret)| (format!("endpoint {endpoint}: header {name}"), secret)));
        }
        found
    }

    /// The files on this machine that its TLS needs, each with where it is configured.
    pub fn tls_files(&self) -> Vec<(String, &Path)> {
        let mut found = Vec::new();
        for (name, source) in &self.source {
            let Source::Postgres(postgres) = source else { continue };
            // Behind a prefix it is a file of the other side.
            if let Some(roots) = postgres.ssl_root_cert.as_deref().filter(|_| postgres.prefix.is_empty()) {
                found.push((format!("source {name}: TLS roots"), roots));
            }
            if let Some(ScratchPostgres::Server(server)) = &postgres.scratch
                && let Some(roots) = server.ssl_root_cert.as_deref().filter(|_| server.prefix.is_empty())
            {
                found.push((format!("source {name}: TLS roots of the server for drills"), roots));
            }
        }
        for (name, endpoint) in &self.endpoint {
            let files = [("TLS roots", &endpoint.ca_file), ("TLS client identity", &endpoint.client_identity_file)];
            let named = files.into_iter().filter_map(|(what, path)| Some((what, path.as_deref()?)));
            found.extend(named.map(|(what, path)| (format!("endpoint {name}: {what}"), path)));
        }
        found
    }
}
