//! Whom downloads believe that a server is what it says: certificates of the host, and those that the user names.
//!
//! As for other programs of the host: `SSL_CERT_FILE` takes the place of the system's list, `SSL_CERT_DIR` names folders
//! besides it. What the user's own settings name is added to either. Nothing of it enters a guest.

use std::fs;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

use crate::error::{Context, Error, ErrorKind, Result};

/// Where systems keep the list of all certificates that they trust: Debian, Fedora, SUSE, Alpine.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Files of certificates in PEM form.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    /// In place of the system's list: `SSL_CERT_FILE`.
    pub file: Option<PathBuf>,
    /// Folders whose files are taken, too: `SSL_CERT_DIR`.
    pub folders: Vec<PathBuf>,
    /// A file that is taken besides all others: the setting `certificates`.
    pub more: Option<PathBuf>,
}

impl Certificates {
    /// All of them. Where the host has none and nobody names any, it is Mozilla's list, as it was when this was built.
    pub fn roots(&self) -> Result<RootCerts> {
        let mut all = Vec::new();
        match &self.file {
            Some(file) => take(file, "SSL_CERT_FILE", &mut all)?,
            None => {
                let system = SYSTEM.iter().map(Path::new).find(|file| file.is_file());
                system.map_or(Ok(()), |file| take(file, "the system's list", &mut all))?;
            }
        }
        for folder in &self.folders {
            let failed = || format!("cannot read {}, which SSL_CERT_DIR names", folder.display());
            for entry in fs::read_dir(folder).context(ErrorKind::Host, failed)? {
                // Folders of certificates have each of them under more than one name, and other files besides.
                let text = entry.ok().and_then(|entry| fs::read(entry.path()).ok()).unwrap_or_default();
                all.extend(certificates(&text));
            }
        }
        if let Some(file) = &self.more {
            take(file, "the setting `certificates`", &mut all)?;
        }
        Ok(if all.is_empty() { RootCerts::WebPki } else { all.into() })
    }
}

/// Adds the certificates of a file, of which there has to be one.
fn take(file: &Path, whose: &str, all: &mut Vec<Certificate<'static>>) -> Result<()> {
    let failed = || format!("cannot read {} ({whose})", file.display());
    let before = all.len();
    all.extend(certificates(&fs::read(file).context(ErrorKind::Host, failed)?));
    if all.len() == before {
        let message = format!("{} ({whose}) holds no certificate", file.display());
        return Err(Error::new(ErrorKind::Host, message)
            .with_hint("expected PEM: `-----BEGIN CERTIFICATE-----`; `openssl x509 -inform der` makes it of DER"));
    }
    Ok(())
}

fn certificates(pem: &[u8]) -> impl Iterator<Item = Certificate<'static>> {
    parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    })
}
