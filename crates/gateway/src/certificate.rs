//! A certificate with its private key: what is shown to callers, and what it says of itself. Nobody is asked here whether
//! its authority is one that callers trust.

use std::{fmt, sync::Arc};

use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use towline_model::Timestamp;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{ASN1Time, FromDer},
};

/// A certificate, those between it and its authority, and its private key.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    said: Option<Said>,
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// From when on it is good.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// The DNS names that it is for, in lower case, in the order of the alphabet.
    pub names: Vec<String>,
}

/// Why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The certificate.
    #[error("{0}")]
    Certificate(String),
    /// The key.
    #[error("no private key could be read, which must be in PEM: {0}")]
    Key(String),
    /// The two do not belong together, or are of a kind that is not known here.
    #[error("the certificate and the key cannot be used together: {0}")]
    Mismatch(rustls::Error),
}

impl Certificate {
    /// Takes certificates (PEM, the server's own first) and the private key (PEM: PKCS #8, PKCS #1 or SEC1). Both may
    /// stand in one text.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| CertificateError::Certificate(error.to_string()))?;
        let Some(own) = chain.first() else {
            let reason = "there is no certificate in it; it must be in PEM";
            return Err(CertificateError::Certificate(reason.to_owned()));
        };
        let said = Said::read(own);
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| CertificateError::Key(error.to_string()))?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(CertificateError::Mismatch)?;
        Ok(Self { key: Arc::new(key), said })
    }

    /// What it says of itself; `None` when that cannot be read, which keeps nobody from showing it.
    #[must_use]
    pub const fn said(&self) -> Option<&Said> {
        self.said.as_ref()
    }

    pub(crate) const fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl Said {
    fn read(certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let moment = |time: ASN1Time| Timestamp::from_micros(time.timestamp().saturating_mul(1_000_000));
        let names = parsed.subject_alternative_name().ok()?.map_or(&[][..], |names| &names.value.general_names);
        let mut names: Vec<_> = names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        Some(Self {
            not_before: moment(parsed.validity().not_before),
            not_after: moment(parsed.validity().not_after),
            names,
        })
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("said", &self.said).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_says_for_whom_and_for_how_long_it_is_good() {
        let key = KeyPair::generate().unwrap();
        let names = ["www.example.com", "EXAMPLE.com", "192.0.2.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 2), date_time_ymd(2026, 4, 2));
        let pem = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
        let certificate = Certificate::from_pem(pem.as_bytes(), pem.as_bytes()).unwrap();
        let expected = Said {
            not_before: Timestamp::parse("2026-01-02T00:00:00Z").unwrap(),
            not_after: Timestamp::parse("2026-04-02T00:00:00Z").unwrap(),
            names: vec!["example.com".to_owned(), "www.example.com".to_owned()],
        };
        assert_eq!(certificate.said(), Some(&expected));
    }
}
