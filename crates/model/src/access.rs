//! Who may do what: the one table of roles and actions, and the principal that it is asked about.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{CredentialId, ServiceId, SignInId, TeamId, UserId};

/// A user's role in a team. Ordered: each role may do all that the one before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees everything but secrets and environment values, calls nothing.
    Viewer,
    /// Works with services: defines, deploys, calls them.
    Member,
    /// Also works with people and keys.
    Admin,
    /// The one who answers for the team.
    Owner,
}

impl Role {
    /// Every role, weakest first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Member, Self::Admin, Self::Owner];

    /// The name in the API and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// What an integration key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// List and show services and agents.
    Read,
    /// Call services.
    Invoke,
    /// Create, change, deploy and delete services.
    Manage,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Read, Self::Invoke, Self::Manage];

    /// What a key may do when it was made without naming scopes.
    pub const DEFAULT: [Self; 2] = [Self::Read, Self::Invoke];

    /// The name in the API and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Invoke => "invoke",
            Self::Manage => "manage",
        }
    }

    /// The scope of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// Something that a principal may or may not do in its team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// List and show services, instances, events and logs.
    ReadServices,
    /// See the values of environment variables.
    ReadEnvValues,
    /// Create services.
    CreateServices,
    /// Change, deploy, undeploy, restart and delete services.
    ManageServices,
    /// Call a service: proxy and invoke.
    InvokeServices,
    /// List agents.
    ReadAgents,
    /// List the team's keys.
    ReadCredentials,
    /// Create and revoke keys.
    ManageCredentials,
    /// Let a device in, which then acts with one's role.
    PairDevices,
    /// Read the audit log.
    ReadAudit,
    /// List and show secrets, without their values.
    ReadSecrets,
    /// Create, change and delete secrets.
    ManageSecrets,
    /// Show the team.
    ReadTeam,
    /// List the team's members.
    ReadMembers,
    /// Change members' roles and remove members. Whom and which roles, the member's own role limits further.
    ManageMembers,
    /// Invite people, list and revoke invitations.
    ManageInvitations,
    /// Rename the team.
    ManageTeam,
    /// Leave the team.
    LeaveTeam,
    /// Make another member the owner.
    TransferTeam,
    /// Delete the team with all that belongs to it.
    DeleteTeam,
}

impl Action {
    /// Every action, in the order of the printed table.
    pub const ALL: [Self; 20] = [
        Self::ReadServices,
        Self::ReadEnvValues,
        Self::CreateServices,
        Self::ManageServices,
        Self::InvokeServices,
        Self::ReadAgents,
        Self::ReadCredentials,
        Self::ManageCredentials,
        Self::PairDevices,
        Self::ReadAudit,
        Self::ReadSecrets,
        Self::ManageSecrets,
        Self::ReadTeam,
        Self::ReadMembers,
        Self::ManageMembers,
        Self::ManageInvitations,
        Self::ManageTeam,
        Self::LeaveTeam,
        Self::TransferTeam,
        Self::DeleteTeam,
    ];

    /// The weakest role that may do it.
    #[must_use]
    pub const fn minimum_role(self) -> Role {
        match self {
            Self::ReadServices
            | Self::ReadAgents
            | Self::PairDevices
            | Self::ReadTeam
            | Self::ReadMembers
            | Self::LeaveTeam => Role::Viewer,
            Self::ReadEnvValues
            | Self::CreateServices
            | Self::ManageServices
            | Self::InvokeServices
            | Self::ReadCredentials
            | Self::ManageCredentials
            | Self::ReadSecrets
            | Self::ManageSecrets => Role::Member,
            Self::ReadAudit => Role::Admin,
            Self::ManageMembers | Self::ManageInvitations | Self::ManageTeam => Role::Admin,
            Self::TransferTeam | Self::DeleteTeam => Role::Owner,
        }
    }

    /// The scope that an integration key needs for it; `None` when no integration key may do it.
    const fn scope(self) -> Option<Scope> {
        match self {
            Self::ReadServices | Self::ReadAgents => Some(Scope::Read),
            Self::InvokeServices => Some(Scope::Invoke),
            Self::CreateServices | Self::ManageServices => Some(Scope::Manage),
            Self::ReadEnvValues
            | Self::ReadCredentials
            | Self::ManageCredentials
            | Self::PairDevices
            | Self::ReadAudit
            | Self::ReadSecrets
            | Self::ManageSecrets
            | Self::ReadTeam
            | Self::ReadMembers
            | Self::ManageMembers
            | Self::ManageInvitations
            | Self::ManageTeam
            | Self::LeaveTeam
            | Self::TransferTeam
            | Self::DeleteTeam => None,
        }
    }

    /// Who gets in, by a key or as a member, is decided by people who have signed in, never by a key.
    const fn needs_sign_in(self) -> bool {
        matches!(
            self,
            Self::ReadCredentials
                | Self::ManageCredentials
                | Self::PairDevices
                | Self::ManageMembers
                | Self::ManageInvitations
                | Self::ManageTeam
                | Self::LeaveTeam
                | Self::TransferTeam
                | Self::DeleteTeam
        )
    }
}

/// Who makes a request, in which team, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A signed-in user (JWT).
    User {
        /// The user.
        user_id: UserId,
        /// The team that the request is about.
        team_id: TeamId,
        /// The user's role in that team.
        role: Role,
        /// The sign-in that the token goes back to.
        sign_in: SignInId,
    },
    /// A user's device (`dk-`), acting with the user's role.
    Device {
        /// The device key.
        credential_id: CredentialId,
        /// Its user.
        user_id: UserId,
        /// Its team.
        team_id: TeamId,
        /// The user's role in that team.
        role: Role,
    },
    /// An integration key (`sk-`).
    Integration {
        /// The key.
        credential_id: CredentialId,
        /// Its team.
        team_id: TeamId,
        /// What it may be used for.
        scopes: Arc<[Scope]>,
        /// The only services that there are for it, in order; `None` for all of its team, those to come included.
        services: Option<Arc<[ServiceId]>>,
    },
}

impl Principal {
    /// The team that everything in the request belongs to.
    #[must_use]
    pub const fn team_id(&self) -> TeamId {
        match self {
            Self::User { team_id, .. } | Self::Device { team_id, .. } | Self::Integration { team_id, .. } => *team_id,
        }
    }

    /// The person behind it; nobody behind an integration key.
    #[must_use]
    pub const fn user_id(&self) -> Option<UserId> {
        match self {
            Self::User { user_id, .. } | Self::Device { user_id, .. } => Some(*user_id),
            Self::Integration { .. } => None,
        }
    }

    /// The same with another role, which an integration key does not have.
    #[must_use]
    pub const fn with_role(mut self, now: Role) -> Self {
        if let Self::User { role, .. } | Self::Device { role, .. } = &mut self {
            *role = now;
        }
        self
    }

    /// The one question of authorisation: may this principal do that in its team?
    #[must_use]
    pub fn may(&self, action: Action) -> bool {
        match self {
            Self::User { role, .. } => *role >= action.minimum_role(),
            Self::Device { role, .. } => !action.needs_sign_in() && *role >= action.minimum_role(),
            // What a key with a list would create is not on its list.
            Self::Integration { services: Some(_), .. } if action == Action::CreateServices => false,
            Self::Integration { scopes, .. } => action.scope().is_some_and(|scope| scopes.contains(&scope)),
        }
    }

    /// The only services of its team that there are for this principal, in order; `None` for all. Every other one is to
    /// it like one that does not exist.
    #[must_use]
    pub fn only_services(&self) -> Option<&[ServiceId]> {
        match self {
            Self::User { .. } | Self::Device { .. } => None,
            Self::Integration { services, .. } => services.as_deref(),
        }
    }

    /// Whether a service of its team is there for this principal.
    #[must_use]
    pub fn sees(&self, service: ServiceId) -> bool {
        self.only_services().is_none_or(|only| only.binary_search(&service).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(role: Role) -> Principal {
        Principal::User {
            user_id: UserId::generate(),
            team_id: TeamId::generate(),
            role,
            sign_in: SignInId::generate(),
        }
    }

    #[test]
    fn the_table_of_roles_and_actions() {
        use Action::*;
        let rows = [
            // action, viewer, member, admin, owner
            (ReadServices, [true, true, true, true]),
            (ReadEnvValues, [false, true, true, true]),
            (CreateServices, [false, true, true, true]),
            (ManageServices, [false, true, true, true]),
            (InvokeServices, [false, true, true, true]),
            (ReadAgents, [true, true, true, true]),
            (ReadCredentials, [false, true, true, true]),
            (ManageCredentials, [false, true, true, true]),
            (PairDevices, [true, true, true, true]),
            (ReadAudit, [false, false, true, true]),
            (ReadSecrets, [false, true, true, true]),
            (ManageSecrets, [false, true, true, true]),
            (ReadTeam, [true, true, true, true]),
            (ReadMembers, [true, true, true, true]),
            (ManageMembers, [false, false, true, true]),
            (ManageInvitations, [false, false, true, true]),
            (ManageTeam, [false, false, true, true]),
            (LeaveTeam, [true, true, true, true]),
            (TransferTeam, [false, false, false, true]),
            (DeleteTeam, [false, false, false, true]),
        ];
        assert_eq!(rows.len(), Action::ALL.len(), "every action has a row");
        for (action, allowed) in rows {
            assert_eq!(Role::ALL.map(|role| user(role).may(action)), allowed, "{action:?}");
        }
    }

    #[test]
    fn a_key_does_what_its_scopes_say_and_never_makes_keys() {
        let key = |scopes: &[Scope]| Principal::Integration {
            credential_id: CredentialId::generate(),
            team_id: TeamId::generate(),
            scopes: scopes.into(),
            services: None,
        };
        assert!(key(&Scope::DEFAULT).may(Action::InvokeServices));
        assert!(!key(&Scope::DEFAULT).may(Action::ManageServices));
        assert!(!key(&[Scope::Read]).may(Action::InvokeServices));
        assert!(!key(&Scope::ALL).may(Action::ManageCredentials));
        assert!(!key(&Scope::ALL).may(Action::ReadEnvValues));
        assert!(!key(&Scope::ALL).may(Action::ReadSecrets) && !key(&Scope::ALL).may(Action::ManageSecrets));
        let device = Principal::Device {
            credential_id: CredentialId::generate(),
            user_id: UserId::generate(),
            team_id: TeamId::generate(),
            role: Role::Owner,
        };
        assert!(!device.may(Action::ManageCredentials) && !device.may(Action::PairDevices));
        assert!(device.may(Action::ManageServices));
    }

    #[test]
    fn a_key_with_a_list_sees_what_is_on_it_and_adds_nothing() {
        let mut ids = [ServiceId::generate(), ServiceId::generate()];
        ids.sort_unstable();
        let key = |services: Option<&[ServiceId]>| Principal::Integration {
            credential_id: CredentialId::generate(),
            team_id: TeamId::generate(),
            scopes: Scope::ALL.into(),
            services: services.map(Into::into),
        };
        assert!(key(Some(&ids)).sees(ids[0]) && key(Some(&ids)).sees(ids[1]));
        assert!(!key(Some(&ids)).sees(ServiceId::generate()));
        assert!(!key(Some(&[])).sees(ids[0]), "an empty list is a list");
        assert!(key(None).sees(ids[0]) && key(None).may(Action::CreateServices));
        assert!(key(Some(&ids)).may(Action::ManageServices) && !key(Some(&ids)).may(Action::CreateServices));
        assert!(user(Role::Viewer).sees(ids[0]));
    }
}
