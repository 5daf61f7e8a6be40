//! A seeded choice of some out of many, the same on every machine.

/// SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"): 64
/// bits of state, every number once in a period. Written here because what a seed gives must
/// not change with the version of a crate.
struct SplitMix64(u64);

impl SplitMix64 {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which must not be 0. No number is likelier than another by more
    /// than `end` in 2⁶⁴.
    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.number()) * end as u128) >> 64) as usize
    }
}

/// `0..count` in an order of its own for every seed (Fisher and Yates).
pub(super) fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut random = SplitMix64(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, random.below(last + 1));
    }
    order
}

/// `wanted` of `0..count`, ascending; all of them if there are no more.
pub fn sorted_sample(count: usize, wanted: usize, seed: u64) -> Vec<usize> {
    let mut chosen = shuffled(count, seed);
    chosen.truncate(wanted);
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_generator() {
        // First numbers for the seed 1234567, as published with the reference code.
        let mut random = SplitMix64(1_234_567);
        let numbers: Vec<u64> = (0..3).map(|_| random.number()).collect();
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!(numbers, expected);
    }

    #[test]
    fn a_sample_is_sorted_without_repetition_and_its_seeds_own() {
        let sample = sorted_sample(1000, 100, 7);
        assert_eq!(sample.len(), 100);
        assert!(sample.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(sample.iter().all(|&index| index < 1000));
        assert_eq!(sample, sorted_sample(1000, 100, 7));
        assert_ne!(sample, sorted_sample(1000, 100, 8));
    }

    #[test]
    fn all_are_taken_where_there_are_no_more() {
        assert_eq!(sorted_sample(3, 3, 1), [0, 1, 2]);
        assert_eq!(sorted_sample(3, 9, 1), [0, 1, 2]);
        assert!(sorted_sample(0, 9, 1).is_empty());
    }

    #[test]
    fn every_place_is_about_as_likely() {
        let mut hits = [0; 10];
        for seed in 0..2000 {
            for index in sorted_sample(10, 3, seed) {
                hits[index] += 1;
            }
        }
        assert!(
            hits.iter().all(|&hits| (500..700).contains(&hits)),
            "{hits:?}"
        );
    }
}
