//! Invitations.

use towline_model::{InvitationId, Role};
use towline_store::{Constraint, InvitationRow, StoreError};

use crate::{
    fixtures::{Team, add_team, at, page},
    harness::{Database, at_once, for_each_engine},
};

for_each_engine!(
    an_invitation_is_found_by_its_token_and_listed_until_it_expires,
    an_address_is_invited_once_to_a_team,
    an_invitation_is_taken_once,
    who_leaves_takes_open_invitations_along,
);

fn row(team: Team, address: &str, token: u8) -> InvitationRow {
    InvitationRow {
        id: InvitationId::generate(),
        team_id: team.id,
        email_address: address.to_owned(),
        role: Role::Member,
        token_hash: [token; 32],
        invited_by: team.owner,
        created_at: at(u64::from(token)),
        expires_at: at(100),
    }
}

async fn an_invitation_is_found_by_its_token_and_listed_until_it_expires(database: &Database) {
    let store = database.connect().await;
    let (team, other) = (add_team(&store).await, add_team(&store).await);
    let mut first = row(team, "Ada@Example.com", 1);
    let (second, foreign) = (row(team, "bob@example.com", 2), row(other, "ada@example.com", 3));
    let mut tx = store.write().await.unwrap();
    for row in [&first, &second, &foreign] {
        tx.insert_invitation(row).await.unwrap();
    }
    tx.commit().await.unwrap();
    first.email_address = "ada@example.com".to_owned();
    let mut tx = store.write().await.unwrap();
    assert_eq!(tx.find_invitation_by_token([1; 32]).await.unwrap(), Some(first.clone()));
    assert_eq!(tx.find_invitation_by_token([9; 32]).await.unwrap(), None);
    let list = tx.list_invitations(team.id, at(99), page(1, 1)).await.unwrap();
    assert_eq!((list.items, list.total_count), (vec![second.clone()], 2));
    let list = tx.list_invitations(team.id, at(99), page(2, 1)).await.unwrap();
    assert_eq!(list.items, std::slice::from_ref(&first));
    assert_eq!(tx.list_invitations(team.id, at(100), page(1, 9)).await.unwrap().total_count, 0);
    assert_eq!(tx.invitations_of_address("ADA@example.com", at(99)).await.unwrap(), [first, foreign]);
    tx.prune_invitations(team.id, at(99)).await.unwrap();
    assert!(tx.find_invitation_by_token([2; 32]).await.unwrap().is_some());
    tx.prune_invitations(team.id, at(100)).await.unwrap();
    assert_eq!(tx.find_invitation_by_token([2; 32]).await.unwrap(), None);
    assert!(tx.find_invitation_by_token([3; 32]).await.unwrap().is_some(), "another team's are left alone");
}

async fn an_address_is_invited_once_to_a_team(database: &Database) {
    let store = database.connect().await;
    let (team, other) = (add_team(&store).await, add_team(&store).await);
    let add = async |row: InvitationRow| {
        let mut tx = store.write().await.unwrap();
        tx.insert_invitation(&row).await?;
        tx.commit().await
    };
    add(row(team, "ada@example.com", 1)).await.unwrap();
    add(row(other, "ada@example.com", 2)).await.unwrap();
    let twice = add(row(team, "ADA@example.com", 3)).await;
    let expected = Constraint::InvitationEmailAddress;
    assert!(matches!(twice, Err(StoreError::Conflict { constraint }) if constraint == expected), "{twice:?}");
    let same_token = add(row(team, "bob@example.com", 2)).await;
    let expected = Constraint::InvitationTokenHash;
    assert!(matches!(same_token, Err(StoreError::Conflict { constraint }) if constraint == expected), "{same_token:?}");
}

async fn an_invitation_is_taken_once(database: &Database) {
    let store = database.connect().await;
    let (team, other) = (add_team(&store).await, add_team(&store).await);
    let invitation = row(team, "ada@example.com", 1);
    let mut tx = store.write().await.unwrap();
    tx.insert_invitation(&invitation).await.unwrap();
    assert_eq!(tx.take_invitation(other.id, invitation.id).await.unwrap(), None);
    tx.commit().await.unwrap();
    let id = invitation.id;
    let taken = at_once(10, |_| {
        let store = store.clone();
        async move {
            let mut tx = store.write().await.unwrap();
            let taken = tx.take_invitation(team.id, id).await.unwrap();
            tx.commit().await.unwrap();
            taken
        }
    })
    .await;
    assert_eq!(taken.into_iter().flatten().collect::<Vec<_>>(), [invitation]);
}

async fn who_leaves_takes_open_invitations_along(database: &Database) {
    let store = database.connect().await;
    let (team, other) = (add_team(&store).await, add_team(&store).await);
    let by_other = InvitationRow { invited_by: other.owner, ..row(team, "bob@example.com", 2) };
    let mut tx = store.write().await.unwrap();
    tx.insert_invitation(&row(team, "ada@example.com", 1)).await.unwrap();
    tx.insert_invitation(&by_other).await.unwrap();
    tx.delete_invitations_by(team.id, team.owner).await.unwrap();
    assert_eq!(tx.find_invitation_by_token([1; 32]).await.unwrap(), None);
    assert_eq!(tx.find_invitation_by_token([2; 32]).await.unwrap(), Some(by_other));
}
