//! Pages of lists, for every list in the same way.
//!
//! A page is found by its number, or by the item that it comes after. The number counts what is there at that moment, so
//! what is added or deleted in front of a page moves it; a position stays where it is, so who goes from position to
//! position sees everything that was there all along exactly once.

use towline_model::Timestamp;
use uuid::Uuid;

use crate::{StoreError, Tx, query::Query, value::FromRow};

/// A place in a list: that of the item with this time and this id, whether it is still there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The time that the list is in the order of.
    pub at: Timestamp,
    /// The id, which orders items of the same time.
    pub id: Uuid,
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The page's number, from 1. 0 is taken as 1. With a position it does not matter.
    pub current_page: u32,
    /// How many items a page has. 0 is taken as 1; the upper limit is the caller's.
    pub per_page: u32,
    /// The position that the page comes after.
    pub after: Option<Position>,
}

impl Page {
    fn limit(self) -> i64 {
        i64::from(self.per_page.max(1))
    }

    fn offset(self) -> i64 {
        if self.after.is_some() {
            return 0;
        }
        i64::from(self.current_page.max(1) - 1).saturating_mul(self.limit())
    }
}

impl Default for Page {
    fn default() -> Self {
        Self { current_page: 1, per_page: 20, after: None }
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged<T> {
    /// The items of the page, in the list's order; empty behind the last page.
    pub items: Vec<T>,
    /// How many items the whole list has.
    pub total_count: u64,
    /// The position that the next page comes after; `None` when this is the last page.
    pub next: Option<Position>,
}

impl<T> Paged<T> {
    /// The same part with other items, one for each.
    pub fn map<U>(self, to: impl FnMut(T) -> U) -> Paged<U> {
        let Self { items, total_count, next } = self;
        Paged { items: items.into_iter().map(to).collect(), total_count, next }
    }
}

/// A row of a list.
pub(crate) trait Listed: FromRow {
    /// Where it is in its list.
    fn position(&self) -> Position;
}

/// What a list begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    NewestFirst,
    OldestFirst,
}

/// The end of a list's SELECT: what comes after a position, the newest first. Takes the columns of the time and of the id,
/// and the numbers of four arguments, which [`Tx::fetch_page`] binds.
macro_rules! newest_first {
    ($time:literal, $id:literal, [$at:literal, $after:literal, $limit:literal, $offset:literal]) => {
        $crate::page::in_order!($time, $id, "<", " DESC", [$at, $after, $limit, $offset])
    };
}

/// As [`newest_first`], the oldest first.
macro_rules! oldest_first {
    ($time:literal, $id:literal, [$at:literal, $after:literal, $limit:literal, $offset:literal]) => {
        $crate::page::in_order!($time, $id, ">", "", [$at, $after, $limit, $offset])
    };
}

// One comparison of a pair, without an OR for the first page: so an index begins at the position.
macro_rules! in_order {
    ($time:literal, $id:literal, $behind:literal, $order:literal, [$at:literal, $after:literal, $limit:literal, $offset:literal]) => {
        concat!(
            " AND (",
            $time,
            ", ",
            $id,
            ") ",
            $behind,
            " ($",
            $at,
            ", $",
            $after,
            ") ORDER BY ",
            $time,
            $order,
            ", ",
            $id,
            $order,
            " LIMIT $",
            $limit,
            " OFFSET $",
            $offset
        )
    };
}

pub(crate) use {in_order, newest_first, oldest_first};

impl Tx {
    /// Reads a page with the statement that counts the list and the one that selects from it, which ends in
    /// [`newest_first`] or [`oldest_first`] and has its other arguments already.
    pub(crate) async fn fetch_page<T: Listed>(
        &mut self,
        (count, select): (Query, Query),
        order: Order,
        page: Page,
    ) -> Result<Paged<T>, StoreError> {
        let total_count = self.fetch_total(count).await?;
        // Before all times, or behind them, no id matters.
        let (at, id) = match (page.after, order) {
            (Some(position), _) => (position.at.as_micros(), position.id.to_string()),
            (None, Order::NewestFirst) => (i64::MAX, String::new()),
            (None, Order::OldestFirst) => (i64::MIN, String::new()),
        };
        // One more than is wanted tells whether there is a next page.
        let select = select.bind(at).bind(id).bind(page.limit() + 1).bind(page.offset());
        let mut items: Vec<T> = self.fetch_all(select).await?;
        let wanted = usize::try_from(page.limit()).unwrap_or(usize::MAX);
        let has_more = items.len() > wanted;
        items.truncate(wanted);
        let next = items.last().filter(|_| has_more).map(Listed::position);
        Ok(Paged { items, total_count, next })
    }
}
