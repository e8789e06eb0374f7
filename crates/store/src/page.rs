//! Pages of lists.

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The page's number, from 1. 0 is taken as 1.
    pub current_page: u32,
    /// How many items a page has. 0 is taken as 1; the upper limit is the caller's.
    pub per_page: u32,
}

impl Page {
    pub(crate) fn limit(self) -> i64 {
        i64::from(self.per_page.max(1))
    }

    pub(crate) fn offset(self) -> i64 {
        i64::from(self.current_page.max(1) - 1).saturating_mul(self.limit())
    }
}

impl Default for Page {
    fn default() -> Self {
        Self { current_page: 1, per_page: 20 }
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged<T> {
    /// The items of the page, in the list's order; empty behind the last page.
    pub items: Vec<T>,
    /// How many items the whole list has.
    pub total_count: u64,
}
