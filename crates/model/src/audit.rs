//! The one list of what the audit log tells: each change that somebody made, by name.

macro_rules! audit_actions {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)*) => {
        /// What somebody did. Its name is the kind of thing, a dot, and what was done to it. Names are added, never changed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum AuditAction {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl AuditAction {
            /// Every action.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in the API and in the database.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

audit_actions! {
    /// An account was made for a person.
    UserCreate = "user.create";
    /// A user signed in.
    UserSignIn = "user.sign_in";
    /// A user signed out, or a sign-in was ended because somebody has a copy of its refresh token.
    UserSignOut = "user.sign_out";
    /// An identity at an identity provider became a user's: the next sign-ins with it are that user's.
    UserLinkIdentity = "user.link_identity";
    /// A user changed his or her name or password.
    UserUpdate = "user.update";
    /// A team was made.
    TeamCreate = "team.create";
    /// A team got another name.
    TeamUpdate = "team.update";
    /// A team was handed over to another member.
    TeamTransfer = "team.transfer";
    /// A team was deleted.
    TeamDelete = "team.delete";
    /// A member got another role.
    MemberUpdate = "member.update";
    /// A member was removed.
    MemberRemove = "member.remove";
    /// A member left.
    MemberLeave = "member.leave";
    /// Somebody was invited.
    InvitationCreate = "invitation.create";
    /// An invitation was taken back.
    InvitationRevoke = "invitation.revoke";
    /// An invitation was accepted.
    InvitationAccept = "invitation.accept";
    /// A key was made.
    CredentialCreate = "credential.create";
    /// A key was revoked.
    CredentialRevoke = "credential.revoke";
    /// A device was let in; its keys are made when it fetches them.
    DevicePair = "device.pair";
    /// A secret was stored.
    SecretCreate = "secret.create";
    /// A secret's name, description or value was changed.
    SecretUpdate = "secret.update";
    /// A secret was deleted.
    SecretDelete = "secret.delete";
    /// A service was defined.
    ServiceCreate = "service.create";
    /// A service's definition was changed.
    ServiceUpdate = "service.update";
    /// A service was deleted.
    ServiceDelete = "service.delete";
    /// A deploy was asked for.
    ServiceDeploy = "service.deploy";
    /// An undeploy was asked for.
    ServiceUndeploy = "service.undeploy";
    /// A restart was asked for.
    ServiceRestart = "service.restart";
}

impl AuditAction {
    /// The kind of thing that it was done to, such as `service`.
    #[must_use]
    pub fn target_kind(self) -> &'static str {
        self.as_str().split('.').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_of_one_form() {
        let names: BTreeSet<_> = AuditAction::ALL.iter().map(|action| action.as_str()).collect();
        assert_eq!(names.len(), AuditAction::ALL.len());
        for name in names {
            let parts: Vec<_> = name.split('.').collect();
            let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(parts.len() == 2 && parts.iter().all(is_word), "{name}");
        }
    }
}
