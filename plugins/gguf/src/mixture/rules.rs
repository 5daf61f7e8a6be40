//! The language of the level table: which tensors get a type other than the base.

use super::roles::Role;
use crate::blocks::BlockType;

/// One exception to a level's base type.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The tensors it is about; `None` for all but the output. Such rules come before those for
    /// one role.
    pub role: Option<Role>,
    /// All of these must hold.
    pub when: &'static [When],
    /// The type they get then.
    pub ty: BlockType,
}

/// A condition of a [`Rule`].
///
/// Positions count the tensors of a role in walking order, from 0. In models with experts the
/// feed-forward tensors count by the layer in their name instead, since a layer may have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// In the first or last eighth, or at every third place between.
    MoreBits,
    /// Among the first `n`.
    First(u32),
    /// In the first `n`-th of all.
    FirstFraction(u32),
    /// At least four query heads share a key-value head.
    GroupedQuery,
    /// There is an importance matrix.
    Imatrix,
    /// There is no importance matrix.
    NoImatrix,
    /// The architecture is Falcon, which has its own mixtures.
    Falcon,
    /// The architecture is not Falcon.
    NotFalcon,
    /// The model has eight experts, as Mixtral does: attention is a small part of it.
    EightExperts,
    /// The model has another number of experts, or none.
    NotEightExperts,
    /// The tensor is a stack of matrices, one for each expert.
    Experts,
}

/// What the conditions are judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// The tensor's position among those of its role.
    pub position: u32,
    /// How many positions there are.
    pub positions: u32,
    pub grouped_query: bool,
    pub imatrix: bool,
    pub falcon: bool,
    pub eight_experts: bool,
    pub experts: bool,
}

impl When {
    fn holds(self, at: &Situation) -> bool {
        match self {
            Self::MoreBits => more_bits(at.position, at.positions),
            Self::First(n) => at.position < n,
            Self::FirstFraction(n) => at.position < at.positions / n.max(1),
            Self::GroupedQuery => at.grouped_query,
            Self::Imatrix => at.imatrix,
            Self::NoImatrix => !at.imatrix,
            Self::Falcon => at.falcon,
            Self::NotFalcon => !at.falcon,
            Self::EightExperts => at.eight_experts,
            Self::NotEightExperts => !at.eight_experts,
            Self::Experts => at.experts,
        }
    }
}

/// The type of the first rule that holds for a role; for `None`, of those that are about all.
pub(super) fn first_match(rules: &[Rule], role: Option<Role>, at: &Situation) -> Option<BlockType> {
    rules
        .iter()
        .find(|rule| rule.role == role && rule.when.iter().all(|when| when.holds(at)))
        .map(|rule| rule.ty)
}

/// llama.cpp's choice of layers worth more bits; all divisions are of whole numbers.
fn more_bits(position: u32, positions: u32) -> bool {
    let (i, n) = (i64::from(position), i64::from(positions));
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}

/// A rule for all tensors but the output.
pub(crate) const fn all(when: &'static [When], ty: BlockType) -> Rule {
    let role = None;
    Rule { role, when, ty }
}

const fn rule(role: Role, when: &'static [When], ty: BlockType) -> Rule {
    let role = Some(role);
    Rule { role, when, ty }
}

/// A rule for `output.weight`, and token embeddings that also serve as output.
pub(crate) const fn output(when: &'static [When], ty: BlockType) -> Rule {
    rule(Role::Output, when, ty)
}

/// A rule for token embeddings that do not serve as output.
pub(crate) const fn token_embd(when: &'static [When], ty: BlockType) -> Rule {
    rule(Role::TokenEmbd, when, ty)
}

/// A rule for value projections, fused ones included.
pub(crate) const fn attn_v(when: &'static [When], ty: BlockType) -> Rule {
    rule(Role::AttnV, when, ty)
}

/// A rule for the attention's output projections.
pub(crate) const fn attn_output(when: &'static [When], ty: BlockType) -> Rule {
    rule(Role::AttnOutput, when, ty)
}

/// A rule for the feed-forward down projections.
pub(crate) const fn ffn_down(when: &'static [When], ty: BlockType) -> Rule {
    rule(Role::FfnDown, when, ty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_bits_go_to_both_ends_and_every_third_between() {
        let picked = |n| (0..n).filter(|&i| more_bits(i, n)).collect::<Vec<_>>();
        assert_eq!(picked(8), [0, 3, 6, 7]);
        assert_eq!(picked(4), [2, 3]);
        assert_eq!(picked(1), [0]);
        let of_32 = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
        assert_eq!(picked(32), of_32);
    }

    #[test]
    fn the_first_rule_of_the_role_that_holds_counts() {
        let at = Situation {
            position: 3,
            positions: 32,
            grouped_query: false,
            imatrix: false,
            falcon: false,
            eight_experts: true,
            experts: false,
        };
        let rules = [
            attn_output(&[], BlockType::F32),
            ffn_down(&[When::First(3)], BlockType::F16),
            ffn_down(
                &[When::FirstFraction(8), When::NotEightExperts],
                BlockType::F16,
            ),
            ffn_down(
                &[When::FirstFraction(8), When::EightExperts],
                BlockType::BF16,
            ),
            ffn_down(&[], BlockType::F32),
            all(&[When::Experts], BlockType::Q8_0),
        ];
        let down = |at| first_match(&rules, Some(Role::FfnDown), at);
        assert_eq!(down(&at), Some(BlockType::BF16));
        assert_eq!(first_match(&rules, Some(Role::AttnV), &at), None);
        assert_eq!(first_match(&rules, None, &at), None);
        let stacked = Situation {
            experts: true,
            ..at
        };
        assert_eq!(first_match(&rules, None, &stacked), Some(BlockType::Q8_0));
        assert_eq!(down(&stacked), Some(BlockType::BF16));
        assert_eq!(down(&Situation { position: 4, ..at }), Some(BlockType::F32));
    }
}
