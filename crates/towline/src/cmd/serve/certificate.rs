//! The settings of a server's certificate: files, or an order at an authority that speaks ACME. What is done with the
//! certificate is not here.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use towline_control::acme::{AcmeConfig, Domain, LETS_ENCRYPT};
use towline_gateway::server_tls::ServerTls;
use url::Url;

use crate::failure::Failure;

/// TLS with callers and agents. Without it the server speaks plain HTTP.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "TLS")]
pub(super) struct TlsArgs {
    /// A PEM file with the server's certificate and those between it and its authority. It is read again when it is
    /// written anew [default: plain HTTP].
    #[arg(id = "tls.certificate", long = "tls-cert", value_name = "FILE", value_hint = ValueHint::FilePath)]
    certificate: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    #[arg(id = "tls.key", long = "tls-key", value_name = "FILE", value_hint = ValueHint::FilePath)]
    key: Option<PathBuf>,
}

impl TlsArgs {
    pub(super) fn config(&self, public_url: Option<&Url>) -> Result<Option<ServerTls>, Failure> {
        let (certificate, key) = match (&self.certificate, &self.key) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (None, Some(_)) => {
                return Err(Failure::usage("a private key is given, but no certificate").hint("say --tls-cert"));
            }
            (Some(_), None) => {
                return Err(Failure::usage("a certificate is given, but no private key").hint("say --tls-key"));
            }
        };
        if public_url.is_none_or(|url| url.scheme() != "https") {
            return Err(Failure::usage("with TLS the server must know the name on its certificate")
                .hint("say --public-url, such as https://towline.example.com:7070"));
        }
        ServerTls::load(certificate, key)
            .map(Some)
            .map_err(|error| Failure::usage(format!("--tls-cert, --tls-key: {error}")))
    }
}

/// The certificate for TLS, ordered from an authority that speaks ACME, such as Let's Encrypt.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "TLS with a certificate that is ordered (ACME)")]
pub(super) struct AcmeArgs {
    /// A domain that the server orders a certificate for and renews it, instead of --tls-cert; repeat for several. Port 443 of
    /// each must lead to this server's --listen [default: none is ordered].
    #[arg(id = "acme.domain", long = "acme-domain", value_name = "DOMAIN")]
    domain: Vec<Domain>,
    /// Agrees to the terms of service of the certificate authority, which orders need.
    #[arg(id = "acme.agree_tos", long = "acme-agree-tos")]
    agree_tos: bool,
    /// An e-mail address where the certificate authority reaches you; repeat for several [default: none].
    #[arg(id = "acme.contact", long = "acme-contact", value_name = "ADDRESS", value_parser = parse_contact)]
    contact: Vec<String>,
    /// The directory of the certificate authority.
    #[arg(
        id = "acme.directory",
        long = "acme-directory",
        value_name = "URL",
        value_parser = parse_directory,
        default_value = LETS_ENCRYPT
    )]
    directory: String,
    /// A PEM file with certificates that the HTTPS of the certificate authority is checked against, beside the machine's
    /// trusted ones.
    #[arg(id = "acme.ca_file", long = "acme-ca-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    ca_file: Option<PathBuf>,
}

impl AcmeArgs {
    pub(super) fn config(&self, public_url: Option<&Url>) -> Result<Option<AcmeConfig>, Failure> {
        if self.domain.is_empty() {
            return match self.agree_tos || !self.contact.is_empty() || self.ca_file.is_some() {
                true => {
                    Err(Failure::usage("a certificate is to be ordered, but for no domain").hint("say --acme-domain"))
                }
                false => Ok(None),
            };
        }
        if !self.agree_tos {
            return Err(Failure::usage("the certificate authority orders nothing for who does not agree to its terms")
                .hint("read them (the directory names them), and say --acme-agree-tos"));
        }
        let host = public_url.filter(|url| url.scheme() == "https").and_then(Url::host_str);
        if !host.is_some_and(|host| self.domain.iter().any(|domain| domain.as_str() == host)) {
            let example = self.domain.first().map_or("", Domain::as_str);
            return Err(Failure::usage(
                "callers and agents are told to use --public-url, which must be one of the domains",
            )
            .hint(format!("say --public-url https://{example}")));
        }
        let roots =
            self.ca_file.as_deref().map_or_else(|| Ok(Vec::new()), |path| certificates("--acme-ca-file", path))?;
        Ok(Some(AcmeConfig {
            domains: self.domain.clone(),
            directory: self.directory.clone(),
            contacts: self.contact.clone(),
            roots,
        }))
    }
}

fn parse_contact(text: &str) -> Result<String, String> {
    let is_address = text.split_once('@').is_some_and(|(name, domain)| !name.is_empty() && domain.contains('.'));
    if is_address && !text.contains([':', ',', '?', ' ']) {
        Ok(text.to_owned())
    } else {
        Err("it is not an e-mail address, such as ada@example.com".to_owned())
    }
}

fn parse_directory(text: &str) -> Result<String, String> {
    match Url::parse(text) {
        Ok(url) if url.scheme() == "https" => Ok(url.into()),
        _ => Err(format!("it is not an https:// URL, such as {LETS_ENCRYPT}")),
    }
}

/// The certificates in a PEM file that an option names.
pub(super) fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let unusable = |reason: String| Failure::usage(format!("{option} {}: {reason}", path.display()));
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        Err(unusable("it holds no certificate in PEM form".to_owned()))
    } else {
        Ok(certificates)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{super::settings::ServeArgs, *};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn config(line: &str) -> Result<Option<AcmeConfig>, String> {
        let line = Line::try_parse_from(["server"].into_iter().chain(line.split_whitespace()));
        let config = line.map_err(|error| error.to_string())?.serve.config(Path::new("/nonexistent"), None);
        config.map(|config| config.acme).map_err(|failure| format!("{failure}; {}", failure.hint_text().unwrap_or("")))
    }

    const WHOLE: &str = "--acme-domain a.example --acme-agree-tos --public-url https://a.example";

    #[test]
    fn a_certificate_is_ordered_from_lets_encrypt_unless_told_otherwise() {
        assert!(config("").unwrap().is_none());
        let acme = config(WHOLE).unwrap().unwrap();
        assert_eq!((&*acme.directory, acme.contacts.len(), acme.roots.len()), (LETS_ENCRYPT, 0, 0));
        let line = format!(
            "{WHOLE}:8443 --acme-domain B.example --acme-contact ada@example.com --acme-directory https://ca.example/dir"
        );
        let acme = config(&line).unwrap().unwrap();
        assert_eq!(acme.domains.iter().map(Domain::as_str).collect::<Vec<_>>(), ["a.example", "b.example"]);
        assert_eq!(
            (&*acme.directory, &*acme.contacts),
            ("https://ca.example/dir", &["ada@example.com".to_owned()][..])
        );
    }

    #[test]
    fn what_cannot_be_ordered_is_refused_with_what_to_do() {
        for (line, says) in [
            ("--acme-agree-tos", "say --acme-domain"),
            ("--acme-domain a.example --public-url https://a.example", "say --acme-agree-tos"),
            ("--acme-domain a.example --acme-agree-tos", "say --public-url https://a.example"),
            (
                "--acme-domain a.example --acme-agree-tos --public-url http://a.example",
                "say --public-url https://a.example",
            ),
            ("--acme-domain a.example --acme-agree-tos --public-url https://b.example", "must be one of the domains"),
            ("--acme-domain *.example", "certificates for wildcards cannot be ordered"),
            ("--acme-domain 192.0.2.1", "it is an address"),
            ("--acme-domain a_b.example", "it is not a domain"),
            (&format!("{WHOLE} --acme-contact ada"), "not an e-mail address"),
            (&format!("{WHOLE} --acme-contact mailto:ada@example.com"), "not an e-mail address"),
            (&format!("{WHOLE} --acme-directory http://ca.example/dir"), "not an https:// URL"),
            (&format!("{WHOLE} --acme-ca-file /nonexistent/ca.pem"), "--acme-ca-file /nonexistent/ca.pem: "),
        ] {
            let error = config(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn a_certificate_comes_from_files_or_is_ordered() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        std::fs::write(path("cert"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        let files = format!("--tls-cert {} --tls-key {}", path("cert").display(), path("key").display());
        let error = config(&format!("{WHOLE} {files}")).unwrap_err();
        assert!(error.contains("say either --tls-cert and --tls-key, or --acme-domain"), "{error}");
    }
}
