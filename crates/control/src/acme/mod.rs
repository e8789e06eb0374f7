//! The server's certificate from an ACME certificate authority (RFC 8555), such as Let's Encrypt: ordered, kept in the data
//! directory, shown, and renewed in time.
//!
//! One loop does it for the one certificate, so that there is never more than one order: it waits until a new certificate is
//! due, gets it from the [`Orders`] of an authority, and waits for the next, or, after a failure, longer each time
//! ([`pace`]). Nothing else of the server waits for it: until there is a first certificate, handshakes are refused, and when
//! a renewal fails, the certificate before stays. How an authority is spoken with is in [`authority`]; how it convinces itself
//! that a domain leads here is in the gateway.

mod authority;
mod domain;
mod kept;
mod pace;
mod transport;

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use rand::RngExt as _;
use rustls::pki_types::CertificateDer;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use towline_gateway::{certificate::Certificate, server_tls::ServerTls};
use towline_model::{Clock, Timestamp};

pub use self::{authority::AcmeError, domain::Domain};
use self::{
    authority::{Authority, Failure, Issued},
    kept::Kept,
    pace::Pace,
};

/// The directory of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// How long an order may take in all.
const ORDER_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest sleep in one piece: the time of day is looked at again after it, since machines are suspended and clocks set.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Which certificate is wanted, and from whom.
#[derive(Debug, Clone)]
pub struct AcmeConfig {
    /// The names that the certificate is for; at least one.
    pub domains: Vec<Domain>,
    /// The URL of the authority's directory.
    pub directory: String,
    /// Where the authority reaches people when something is wrong: e-mail addresses.
    pub contacts: Vec<String>,
    /// Certificates that the authority's own HTTPS is checked against beside the machine's trusted roots.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Whoever can be asked for a certificate.
pub(crate) trait Orders: Send {
    /// Orders a certificate and waits for it.
    fn order(&mut self) -> impl Future<Output = Result<Issued, Failure>> + Send;
}

/// Keeps a certificate good.
pub(crate) struct Acme<O> {
    orders: O,
    tls: ServerTls,
    kept: Kept,
    clock: Arc<dyn Clock>,
    /// The names that the certificate is to be for, in the order of the alphabet.
    names: Vec<String>,
    directory: String,
    pace: Pace,
    /// When a certificate is to be ordered.
    due: Timestamp,
}

impl Acme<Authority> {
    /// Shows the certificate that is kept in the data directory, if there is one; asks the authority nothing yet.
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub(crate) fn new(
        config: AcmeConfig,
        data_dir: &Path,
        tls: ServerTls,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AcmeError> {
        let kept = Kept::in_data_dir(data_dir)?;
        let mut names: Vec<_> = config.domains.iter().map(ToString::to_string).collect();
        names.sort_unstable();
        names.dedup();
        let directory = config.directory.clone();
        let orders = Authority::new(config, names.clone(), kept.clone(), tls.clone(), Arc::clone(&clock))?;
        Ok(Self::with(orders, names, directory, kept, tls, clock))
    }
}

impl<O: Orders> Acme<O> {
    fn with(
        orders: O,
        names: Vec<String>,
        directory: String,
        kept: Kept,
        tls: ServerTls,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let due = clock.now();
        let mut acme = Self { orders, tls, kept, clock, names, directory, pace: Pace::default(), due };
        acme.show_kept();
        acme
    }

    /// Orders and renews until the server stops.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        // An order that is cut off here is one that the authority forgets by itself.
        stop.run_until_cancelled(self.keep_good()).await;
    }

    /// Shows the certificate of an earlier process. One for other names, or of another authority, is better than none.
    fn show_kept(&mut self) {
        let (names, directory) = (self.names.join(", "), &self.directory);
        match self.kept.certificate() {
            Ok(Some((certificate, ordered_from))) => {
                let is_wanted = ordered_from == self.directory && is_for(&certificate, &self.names);
                if let (true, Some(said)) = (is_wanted, certificate.said()) {
                    self.due = pace::renewal(said, jitter());
                    tracing::info!(%names, until = %said.not_after, renewal = %self.due, "the kept certificate is shown");
                } else {
                    tracing::info!(%names, %directory, "the kept certificate is shown until there is one as the settings want it");
                }
                self.tls.show(certificate);
            }
            Ok(None) => tracing::info!(
                %names,
                %directory,
                "there is no certificate yet; HTTPS is refused until the certificate authority has issued one"
            ),
            Err(error) => tracing::warn!(%error, "the kept certificate cannot be used; a new one is ordered"),
        }
    }

    async fn keep_good(&mut self) {
        loop {
            self.sleep_until_due().await;
            let names = self.names.join(", ");
            tracing::info!(%names, directory = %self.directory, "ordering a certificate");
            let ordered = timeout(ORDER_TIMEOUT, self.orders.order()).await;
            let issued = ordered.unwrap_or_else(|_| Err(Failure::refused("the order took too long")));
            if let Err(failure) = self.take(issued).await {
                let pause = self.pace.after(&failure, jitter());
                self.due = self.clock.now() + pause;
                let state = match self.tls.said() {
                    None => "HTTPS is refused until there is one".to_owned(),
                    Some(said) => format!("the one that is shown is good until {}", said.not_after),
                };
                let (next, again_in) = (failure.next(), pause.as_secs());
                tracing::warn!(%names, error = %failure.reason, next, again_in, "no certificate could be had: {state}");
            }
        }
    }

    async fn sleep_until_due(&self) {
        loop {
            let left = self.due.since(self.clock.now());
            if left.is_zero() {
                return;
            }
            sleep(left.min(LONGEST_SLEEP)).await;
        }
    }

    /// Looks at what the authority has issued, keeps and shows it.
    async fn take(&mut self, issued: Result<Issued, Failure>) -> Result<(), Failure> {
        let text = kept::text(&self.directory, &issued?);
        let wrong = |what: String| Failure::refused(format!("the certificate that was issued cannot be used: {what}"));
        let pem = text.expose().as_bytes();
        let certificate = Certificate::from_pem(pem, pem).map_err(|error| wrong(error.to_string()))?;
        let said = certificate.said().cloned().ok_or_else(|| wrong("it cannot be read".to_owned()))?;
        if !is_for(&certificate, &self.names) {
            return Err(wrong(format!("it is for {}", said.names.join(", "))));
        }
        let now = self.clock.now();
        if said.not_after <= now {
            return Err(wrong(format!(
                "it ended at {}, and it is {now} here; look at this machine's clock",
                said.not_after
            )));
        }
        if let Err(error) = self.kept.keep_certificate(text).await {
            tracing::error!(%error, "the new certificate is shown, and cannot be kept: a restart will order another one");
        }
        self.tls.show(certificate);
        self.due = pace::renewal(&said, jitter());
        let names = said.names.join(", ");
        tracing::info!(%names, until = %said.not_after, renewal = %self.due, "a new certificate is shown");
        if self.due <= now {
            // Its renewal would be ordered at once, and so on for ever.
            let reason = format!("the new certificate should have been renewed at {} already", self.due);
            return Err(Failure::refused(format!("{reason}; look at this machine's clock")));
        }
        self.pace = Pace::default();
        Ok(())
    }
}

fn is_for(certificate: &Certificate, names: &[String]) -> bool {
    certificate.said().is_some_and(|said| said.names == names)
}

/// A number from 0 to 1, so that servers that were started at the same moment do not ask at the same moment.
fn jitter() -> f64 {
    rand::rng().random_range(0.0..1.0)
}

#[cfg(test)]
mod tests;
