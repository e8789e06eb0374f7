//! Mail: what is written to people, and the SMTP server that takes it.
//!
//! A mail is sent within the request that makes it, within a deadline, and never again: whoever made the request is told
//! when it failed, and holds what the mail would have said.

use std::{str::FromStr, time::Duration};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    message::{Mailbox, header::ContentType},
};
use towline_model::Secret;
use towline_store::InvitationRow;

/// How long an SMTP server may take for each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sending one mail may take in all.
const SEND_DEADLINE: Duration = Duration::from_secs(20);
/// The longest e-mail address, in bytes (RFC 5321 §4.5.3.1.3, without the angle brackets).
const MAX_ADDRESS_BYTES: usize = 254;

/// How mail is sent.
#[derive(Debug, Clone)]
pub struct MailConfig {
    /// `smtp://` or `smtps://`, user and password, host and port.
    pub smtp_url: Secret<String>,
    /// The sender: an address, or a name with an address in angle brackets.
    pub from: String,
}

/// Why mail cannot be sent with such settings.
#[derive(Debug, thiserror::Error)]
pub enum MailConfigError {
    /// The URL.
    #[error("the SMTP URL cannot be used: {0}; it must look like smtps://user:password@mail.example.com")]
    Url(lettre::transport::smtp::Error),
    /// The sender.
    #[error("the sender {0:?} of mails is no e-mail address; it must look like Towline <towline@example.com>")]
    From(String),
}

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// It cannot be written.
    #[error("the mail cannot be written")]
    Message(#[from] lettre::error::Error),
    /// The server did not take it.
    #[error("the mail server did not take the mail")]
    Smtp(#[from] lettre::transport::smtp::Error),
    /// The server took too long.
    #[error("the mail server did not answer in time")]
    Timeout,
}

/// A mail.
pub struct Message {
    to: String,
    subject: String,
    /// Plain text. It may hold a token, so it is nothing to be seen in a log.
    text: Secret<String>,
}

/// Sends mail.
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mailer {
    /// Prepares to send mail; connects to nothing yet.
    ///
    /// # Errors
    /// See [`MailConfigError`].
    pub fn new(config: &MailConfig) -> Result<Self, MailConfigError> {
        let from = config.from.parse().map_err(|_| MailConfigError::From(config.from.clone()))?;
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(config.smtp_url.expose());
        let transport = builder.map_err(MailConfigError::Url)?.timeout(Some(STEP_TIMEOUT)).build();
        Ok(Self { transport, from })
    }

    /// Hands a mail to the server.
    ///
    /// # Errors
    /// See [`MailError`]. After a timeout it is not known whether the server took it.
    pub async fn send(&self, message: Message) -> Result<(), MailError> {
        let to = Address::from_str(&message.to).map_err(|_| lettre::error::Error::MissingTo)?;
        let mail = lettre::Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(message.subject)
            .header(ContentType::TEXT_PLAIN)
            .body(message.text.expose().clone())?;
        let sent = tokio::time::timeout(SEND_DEADLINE, self.transport.send(mail)).await;
        sent.map_err(|_| MailError::Timeout)?.map(drop).map_err(MailError::Smtp)
    }
}

/// Whether a text is an e-mail address that mail can be sent to.
#[must_use]
pub fn is_address(text: &str) -> bool {
    text.len() <= MAX_ADDRESS_BYTES && !text.contains(char::is_control) && Address::from_str(text).is_ok()
}

/// The mail that brings an invitation.
#[must_use]
pub fn invitation(
    url: &str,
    team_name: &str,
    inviter: &str,
    invitation: &InvitationRow,
    token: &Secret<String>,
) -> Message {
    let (role, expires) = (invitation.role.as_str(), invitation.expires_at);
    let text = format!(
        "{inviter} invites you to the team {team_name:?} at {url} as {role}.\n\n\
         Accept with Towline's command line:\n\n  \
         towline member accept --server {url} --token {token}\n\n\
         It asks for a password for your new account. If you have an account already, sign in first with\n\
         `towline login --server {url}`, and add --signed-in to the command above.\n\n\
         The invitation is for {address} and ends {expires}. If you do not know what it is about, ignore it.\n",
        token = token.expose(),
        address = invitation.email_address,
    );
    Message {
        to: invitation.email_address.clone(),
        subject: format!("Invitation to the team {team_name:?} on Towline"),
        text: Secret::new(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_texts() {
        for good in ["ada@example.com", "a.b+c@sub.example.co", "owner@towline.local"] {
            assert!(is_address(good), "{good}");
        }
        let long = format!("{}@example.com", "x".repeat(300));
        for bad in ["", "ada", "ada@", "@example.com", "a b@example.com", "a@b@c", "a@example.com\r\nBcc: x", &long] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn wrong_settings_are_told_without_the_password() {
        let config =
            |url: &str, from: &str| MailConfig { smtp_url: Secret::new(url.to_owned()), from: from.to_owned() };
        for url in ["nonsense", "http://user:hunter2@h", "smtp://"] {
            let Err(error) = Mailer::new(&config(url, "a@example.com")) else { panic!("{url} was taken") };
            assert!(error.to_string().contains("smtps://user") && !error.to_string().contains("hunter2"), "{error}");
        }
        assert!(Mailer::new(&config("smtp://127.0.0.1:25", "nobody")).is_err());
    }
}
