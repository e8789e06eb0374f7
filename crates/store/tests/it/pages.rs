//! Pages of every list while others add to it and take from it: who goes from position to position sees everything that
//! was there all along once, in order.

use towline_model::{
    AgentId, CredentialId, InstanceId, InvitationId, KeyKind, Role, SecretId, ServiceId, TeamId, UserId,
};
use towline_store::{
    AuditFilter, AuditRow, CredentialRow, InstanceRow, InvitationRow, MembershipRow, Page, Paged, Position, SecretRow,
    ServiceRow, Store, TeamRow, UserRow,
};
use uuid::Uuid;

use crate::{
    fixtures::{
        Team, add_service, add_team, at, credential_row, event_row, instance_row, page, registration, secret_row,
        service_row, team_row, user_row,
    },
    harness::{Database, for_each_engine},
};

for_each_engine!(
    a_walk_neither_skips_nor_repeats,
    a_page_is_found_by_its_number_too,
    a_position_outlives_the_item_that_it_is_of,
);

/// The lists that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Agents,
    Audit,
    Credentials,
    Events,
    Instances,
    Invitations,
    Members,
    Secrets,
    Services,
    Teams,
}

const ALL: [List; 10] = [
    List::Agents,
    List::Audit,
    List::Credentials,
    List::Events,
    List::Instances,
    List::Invitations,
    List::Members,
    List::Secrets,
    List::Services,
    List::Teams,
];

/// A list of one team, user or service.
struct Scene {
    store: Store,
    team: Team,
    service: ServiceRow,
    list: List,
}

/// Ids of items, and where the next page begins.
type Part = (Vec<Uuid>, Option<Position>);

impl Scene {
    async fn new(store: &Store, list: List) -> Self {
        let team = add_team(store).await;
        let service = add_service(store, team.id, "first").await;
        Self { store: store.clone(), team, service, list }
    }

    const fn is_newest_first(&self) -> bool {
        matches!(self.list, List::Audit | List::Credentials | List::Events | List::Invitations)
    }

    /// Adds an item of this time.
    async fn add(&self, seconds: u64) -> Uuid {
        let (team, id, created_at) = (self.team, Uuid::now_v7(), at(seconds));
        let mut tx = self.store.write().await.unwrap();
        match self.list {
            List::Agents => {
                let agent = tx.upsert_agent(team.id, &id.to_string(), &registration(), created_at).await.unwrap();
                tx.commit().await.unwrap();
                return agent.id.as_uuid();
            }
            List::Audit => tx.insert_audit_entry(&audit_row(team.id, id, seconds), at(0)).await.unwrap(),
            List::Credentials => {
                let id = CredentialId::from_uuid(id);
                let row = CredentialRow { id, created_at, ..credential_row(team, KeyKind::Integration) };
                tx.insert_credential(&row).await.unwrap();
            }
            List::Events => {
                let mut event = event_row(&self.service, seconds, "it happened");
                event.id = id;
                tx.append_event(&event).await.unwrap();
            }
            List::Instances => {
                let id = InstanceId::from_uuid(id);
                tx.insert_instance(&InstanceRow { id, created_at, ..instance_row(&self.service) }).await.unwrap();
            }
            List::Invitations => tx.insert_invitation(&invitation_row(team, id, seconds)).await.unwrap(),
            List::Members => {
                let user = UserRow { id: UserId::from_uuid(id), created_at, ..user_row(&format!("{id}@example.com")) };
                tx.insert_user(&user).await.unwrap();
                let member = MembershipRow { team_id: team.id, user_id: user.id, role: Role::Member };
                tx.insert_membership(&member).await.unwrap();
            }
            List::Secrets => {
                let id = SecretId::from_uuid(id);
                tx.insert_secret(&SecretRow { id, created_at, ..secret_row(team.id, &id.to_string()) }).await.unwrap();
            }
            List::Services => {
                let slug = format!("s-{id}");
                let id = ServiceId::from_uuid(id);
                tx.insert_service(&ServiceRow { id, created_at, ..service_row(team.id, &slug) }).await.unwrap();
            }
            List::Teams => {
                let other = TeamRow { id: TeamId::from_uuid(id), created_at, ..team_row("another") };
                tx.insert_team(&other).await.unwrap();
                let member = MembershipRow { team_id: other.id, user_id: team.owner, role: Role::Member };
                tx.insert_membership(&member).await.unwrap();
            }
        }
        tx.commit().await.unwrap();
        id
    }

    /// Takes an item away. `false` when nobody can take single items from this list.
    async fn remove(&self, id: Uuid) -> bool {
        let team = self.team.id;
        let mut tx = self.store.write().await.unwrap();
        match self.list {
            List::Agents | List::Audit | List::Events => return false,
            List::Credentials => {
                assert!(tx.revoke_credential(team, CredentialId::from_uuid(id), at(99)).await.unwrap());
            }
            List::Instances => assert!(tx.delete_instance(InstanceId::from_uuid(id)).await.unwrap()),
            List::Invitations => {
                let taken = tx.take_invitation(team, InvitationId::from_uuid(id)).await.unwrap();
                assert!(taken.is_some());
            }
            List::Members => assert!(tx.delete_membership(team, UserId::from_uuid(id)).await.unwrap()),
            List::Secrets => assert!(tx.delete_secret(team, SecretId::from_uuid(id)).await.unwrap()),
            List::Services => {
                let row = tx.find_service(team, ServiceId::from_uuid(id)).await.unwrap().unwrap();
                tx.delete_service(&row).await.unwrap();
            }
            List::Teams => {
                assert!(tx.delete_membership(TeamId::from_uuid(id), self.team.owner).await.unwrap());
            }
        }
        tx.commit().await.unwrap();
        true
    }

    async fn page(&self, page: Page) -> Part {
        let (team, service) = (self.team, self.service.id);
        let mut tx = self.store.read().await.unwrap();
        match self.list {
            List::Agents => part(tx.list_agents(team.id, page).await.unwrap(), |row| row.id.as_uuid()),
            List::Audit => {
                let none = AuditFilter::default();
                part(tx.list_audit_entries(team.id, &none, page).await.unwrap(), |row| row.id)
            }
            List::Credentials => part(tx.list_credentials(team.id, None, page).await.unwrap(), |row| row.id.as_uuid()),
            List::Events => part(tx.list_events(team.id, service, page).await.unwrap(), |row| row.id),
            List::Instances => part(tx.list_instances(service, page).await.unwrap(), |row| row.id.as_uuid()),
            List::Invitations => part(tx.list_invitations(team.id, at(0), page).await.unwrap(), |row| row.id.as_uuid()),
            List::Members => part(tx.list_members(team.id, page).await.unwrap(), |row| row.user_id.as_uuid()),
            List::Secrets => part(tx.list_secrets(team.id, page).await.unwrap(), |row| row.id.as_uuid()),
            List::Services => part(tx.list_services(team.id, None, page).await.unwrap(), |row| row.id.as_uuid()),
            List::Teams => part(tx.list_teams_of_user(team.owner, page).await.unwrap(), |row| row.0.id.as_uuid()),
        }
    }

    /// The page of this size behind a position, or the first one.
    async fn after(&self, after: Option<Position>, per_page: u32) -> Part {
        self.page(Page { after, ..page(1, per_page) }).await
    }

    /// Seven items, of which two at a time have the same age: then the id decides.
    async fn fill(&self) {
        for number in 0..7 {
            self.add(10 + number / 2).await;
        }
    }
}

fn part<T>(paged: Paged<T>, id: impl Fn(&T) -> Uuid) -> Part {
    (paged.items.iter().map(id).collect(), paged.next)
}

fn audit_row(team_id: TeamId, id: Uuid, seconds: u64) -> AuditRow {
    AuditRow {
        id,
        team_id: Some(team_id),
        at: at(seconds),
        action: "service.deploy".to_owned(),
        actor_kind: "user".to_owned(),
        actor_name: "ada@example.com".to_owned(),
        user_id: None,
        credential_id: None,
        target_id: None,
        target_name: "hello".to_owned(),
        address: None,
        request_id: None,
        details: None,
    }
}

fn invitation_row(team: Team, id: Uuid, seconds: u64) -> InvitationRow {
    let mut token_hash = [0; 32];
    token_hash[..16].copy_from_slice(id.as_bytes());
    InvitationRow {
        id: InvitationId::from_uuid(id),
        team_id: team.id,
        email_address: format!("{id}@example.com"),
        role: Role::Member,
        token_hash,
        invited_by: team.owner,
        created_at: at(seconds),
        expires_at: at(1000),
    }
}

async fn a_walk_neither_skips_nor_repeats(database: &Database) {
    let store = database.connect().await;
    for list in ALL {
        let scene = Scene::new(&store, list).await;
        scene.fill().await;
        let (mut expected, none) = scene.after(None, 100).await;
        assert!(none.is_none() && expected.len() >= 7, "{list:?}");
        let (mut seen, mut next) = scene.after(None, 2).await;
        // One more in front of what was seen, one more at the end; gone are what was seen last and what would come next.
        let (front, end) = if scene.is_newest_first() { (60, 5) } else { (1, 60) };
        scene.add(front).await;
        expected.push(scene.add(end).await);
        scene.remove(seen[1]).await;
        if scene.remove(expected[2]).await {
            expected.remove(2);
        }
        while next.is_some() {
            let part = scene.after(next, 2).await;
            assert!(!part.0.is_empty(), "{list:?}: a next page has something");
            seen.extend(part.0);
            next = part.1;
            scene.add(front).await;
        }
        assert_eq!(seen, expected, "{list:?}");
    }
}

async fn a_page_is_found_by_its_number_too(database: &Database) {
    let store = database.connect().await;
    for list in ALL {
        let scene = Scene::new(&store, list).await;
        scene.fill().await;
        let (all, _) = scene.page(page(1, 100)).await;
        let (second, next) = scene.page(page(2, 3)).await;
        assert_eq!(second, all[3..6], "{list:?}");
        let after = Page { after: next, ..page(9, 100) };
        assert_eq!(scene.page(after).await.0, all[6..], "{list:?}: with a position the number does not matter");
        let whole = u32::try_from(all.len()).unwrap();
        assert_eq!(scene.page(page(1, whole)).await, (all, None), "{list:?}: a page that is just full is the last one");
    }
}

async fn a_position_outlives_the_item_that_it_is_of(database: &Database) {
    let store = database.connect().await;
    let scene = Scene::new(&store, List::Agents).await;
    scene.fill().await;
    let (all, _) = scene.after(None, 100).await;
    let nobody = Position { at: at(11), id: AgentId::from_uuid(Uuid::max()).as_uuid() };
    assert_eq!(scene.after(Some(nobody), 100).await.0, all[4..]);
    let never = Position { at: towline_model::Timestamp::from_micros(i64::MAX), id: Uuid::nil() };
    assert_eq!(scene.after(Some(never), 100).await, (Vec::new(), None));
}
