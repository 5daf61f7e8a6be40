//! Deterministic rows of weights, made without library functions whose last
//! digit could differ between machines.

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 16_777_216.0
    }

    /// Close to the standard normal distribution.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }
}

/// A family of rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Normal,
    HeavyTailed,
    Constant,
    NegativeConstant,
    Zero,
    Tiny,
    Huge,
    Large,
    Subnormal,
    Vanishing,
    OneOutlier,
    NegativeOnly,
    PositiveOnly,
    FarFromZero,
    IntegerGrid,
    MostlyZero,
    TwoValued,
    MixedScales,
    SignedZeros,
}

impl Kind {
    pub const ALL: [Self; 19] = [
        Self::Normal,
        Self::HeavyTailed,
        Self::Constant,
        Self::NegativeConstant,
        Self::Zero,
        Self::Tiny,
        Self::Huge,
        Self::Large,
        Self::Subnormal,
        Self::Vanishing,
        Self::OneOutlier,
        Self::NegativeOnly,
        Self::PositiveOnly,
        Self::FarFromZero,
        Self::IntegerGrid,
        Self::MostlyZero,
        Self::TwoValued,
        Self::MixedScales,
        Self::SignedZeros,
    ];

    pub fn row(self, cols: usize, random: &mut Random) -> Vec<f32> {
        let constant = random.normal();
        let outlier = random.below(cols);
        let value = |i: usize, random: &mut Random| match self {
            Self::Normal => random.normal() * 0.02,
            Self::HeavyTailed => {
                let x = random.normal();
                x * x * x * random.normal() * 0.1
            }
            Self::Constant => constant.abs(),
            Self::NegativeConstant => -constant.abs(),
            Self::Zero => 0.0,
            Self::Tiny => random.normal() * 1e-30,
            Self::Huge => random.normal() * 1e30,
            Self::Large => random.normal() * 1e4,
            Self::Subnormal => random.normal() * 1e-40,
            Self::Vanishing => random.normal() * 1e-15,
            Self::OneOutlier if i == outlier => 300.0 * constant,
            Self::OneOutlier => random.normal() * 0.01,
            Self::NegativeOnly => -random.normal().abs() - 1e-3,
            Self::PositiveOnly => random.normal().abs() + 1e-3,
            Self::FarFromZero => 5.0 + 1e-4 * random.normal(),
            Self::IntegerGrid => random.below(33) as f32 - 16.0,
            Self::MostlyZero if random.below(20) == 0 => random.normal(),
            Self::MostlyZero => 0.0,
            Self::TwoValued => [-0.75, 0.75][random.below(2)],
            Self::SignedZeros if random.below(40) == 0 => random.unit(),
            Self::SignedZeros => [0.0, -0.0][random.below(2)],
            Self::MixedScales => {
                let exponent = 127 - 12 + (i / 16 * 7 % 17) as u32;
                random.normal() * f32::from_bits(exponent << 23)
            }
        };
        (0..cols).map(|i| value(i, random)).collect()
    }
}

/// Importance weights of `cols` columns; the kinds are numbered.
pub fn importance(kind: usize, cols: usize, random: &mut Random) -> Vec<f32> {
    let value = |random: &mut Random| match kind {
        0 => random.normal() * random.normal(),
        1 => 1.0,
        2 if random.below(3) == 0 => 0.0,
        2 => random.unit() * 100.0,
        3 => random.unit() * 1e-12,
        _ => 0.0,
    };
    (0..cols).map(|_| value(random).abs()).collect()
}

pub const IMPORTANCE_KINDS: usize = 5;
