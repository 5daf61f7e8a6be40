//! The order in which columns are rounded.
//!
//! Early columns have many others to make up for their errors and late ones few, so columns that
//! matter go first. Neither order needs an index of groups in the checkpoint or costs anything
//! when the model runs: groups stay what they are.

/// An order of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they come.
    InOrder,
    /// Groups by their largest diagonal element of `H`, and columns in a group by theirs, both
    /// descending; "group-aware reordering" of GPTQModel. A group's scale is chosen when the pass
    /// reaches it, from the weights with all corrections so far.
    GroupAware,
    /// All columns by their diagonal element, descending. Groups are visited piecemeal, so scales
    /// are chosen beforehand, from the weights as they were.
    Static,
}

impl Order {
    /// The columns in the order of processing.
    #[must_use]
    pub fn columns(self, diagonal: &[f64], group: usize) -> Vec<usize> {
        let mut columns: Vec<usize> = (0..diagonal.len()).collect();
        let descending =
            |a: &usize, b: &usize| diagonal[*b].total_cmp(&diagonal[*a]).then(a.cmp(b));
        match self {
            Self::InOrder => {}
            Self::Static => columns.sort_by(descending),
            Self::GroupAware => {
                let mut groups: Vec<&mut [usize]> = columns.chunks_mut(group.max(1)).collect();
                for group in &mut groups {
                    group.sort_by(descending);
                }
                groups.sort_by(|a, b| descending(&a[0], &b[0]));
                columns = groups
                    .into_iter()
                    .flat_map(|group| group.to_vec())
                    .collect();
            }
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_matter_go_first() {
        let diagonal = [1.0, 2.0, 5.0, 3.0, 4.0, 0.0, 2.0, 2.0];
        let columns = |order: Order, group| order.columns(&diagonal, group);
        assert_eq!(columns(Order::InOrder, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(columns(Order::Static, 2), [2, 4, 3, 1, 6, 7, 0, 5]);
        assert_eq!(columns(Order::GroupAware, 2), [2, 3, 4, 5, 1, 0, 6, 7]);
        assert_eq!(columns(Order::GroupAware, 8), columns(Order::Static, 1));
        assert_eq!(columns(Order::GroupAware, 1), columns(Order::Static, 1));
    }
}
