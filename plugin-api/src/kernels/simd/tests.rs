//! Every level agrees with the scalar one, lane by lane and bit for bit.

use proptest::prelude::*;

use super::*;

/// Numbers for each lane of the widest vector, three operands.
type Operands = [[f32; 32]; 3];

/// All operations on one vector of operands, at the places of its lanes.
struct Operations<'a> {
    operands: &'a Operands,
    from: usize,
    out: &'a mut Vec<[f32; 32]>,
}

impl Kernel for Operations<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> usize {
        let [a, b, c] = [0, 1, 2].map(|k| isa.load(&self.operands[k][self.from..]));
        let mask = a.lt(b);
        let other = b.eq(c) | c.gt(a);
        let results = [
            a + b,
            a - b,
            a * b,
            a / b,
            a.abs(),
            a.abs().sqrt(),
            a.larger(b),
            a.smaller(b),
            a.round_wrapping(),
            a.larger(isa.splat(-126.0))
                .smaller(isa.splat(127.0))
                .round()
                .power_of_two(),
            Vector::select(mask, a, b),
            Vector::select(mask & other, a, b),
            Vector::select(mask | other, a, b),
            Vector::select(!mask, a, b),
            a.eq(b).any_as(isa),
            isa.splat(self.operands[0][0]),
        ];
        self.out.resize(results.len(), [0.0; 32]);
        for (result, out) in results.iter().zip(self.out.iter_mut()) {
            result.store(&mut out[self.from..]);
        }
        I::LANES
    }
}

trait AnyAs<I: Isa>: Mask {
    /// The mask as numbers; `any` and `all` have to agree with it.
    fn any_as(self, isa: I) -> I::F32;
}

impl<I: Isa> AnyAs<I> for <I::F32 as Vector>::Mask {
    #[inline(always)]
    fn any_as(self, isa: I) -> I::F32 {
        let numbers = Vector::select(self, isa.splat(1.0), isa.splat(0.0));
        let mut stored = [0.0; 32];
        numbers.store(&mut stored);
        let set = stored[..I::LANES].iter().filter(|x| **x == 1.0).count();
        assert_eq!((self.any(), self.all()), (set > 0, set == I::LANES));
        numbers
    }
}

fn results(level: Level, operands: &Operands) -> Vec<[f32; 32]> {
    let (mut out, mut from) = (Vec::new(), 0);
    while from < 32 {
        let out = &mut out;
        from += level.dispatch(Operations {
            operands,
            from,
            out,
        });
    }
    out
}

fn any_number() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<f32>(),
        -100.0f32..100.0,
        (-20i32..20).prop_map(|n| n as f32 * 0.5),
        prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0]),
    ]
}

proptest! {
    #[test]
    fn operations_are_the_same_on_every_level(
        operands in prop::array::uniform3(prop::array::uniform32(any_number()))
    ) {
        let expected = results(Level::scalar(), &operands);
        for level in Level::all() {
            for (op, (got, want)) in results(level, &operands).iter().zip(&expected).enumerate() {
                for (got, want) in got.iter().zip(want) {
                    let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                    prop_assert!(same, "{} operation {op}: {got:e} and not {want:e}", level.name());
                }
            }
        }
    }
}

/// Transposes, rounds, stores as bytes and finds the extremes.
struct Moves<'a>(&'a [[f32; 32]]);

impl Kernel for Moves<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for count in 0..=I::LANES {
            let rows = &self.0[..count];
            let columns = isa.transpose(rows);
            for (i, column) in columns.iter().enumerate() {
                let mut stored = [f32::NAN; 32];
                column.store(&mut stored);
                for (k, value) in stored[..I::LANES].iter().enumerate() {
                    assert_eq!(*value, rows.get(k).map_or(0.0, |row| row[i]));
                }
            }
        }
        let vector = isa.load(&self.0[3]);
        let lanes = &self.0[3][..I::LANES];
        assert_eq!(
            vector.max_lane(),
            lanes.iter().copied().fold(f32::MIN, f32::max)
        );
        assert_eq!(
            vector.min_lane(),
            lanes.iter().copied().fold(f32::MAX, f32::min)
        );
        let mut bytes = [0xaa; 32];
        vector.store_bytes(&mut bytes);
        for (byte, value) in bytes.iter().zip(lanes) {
            assert_eq!(*byte, value.trunc() as i32 as u8, "{value}");
        }
        let mut signed = [f32::NAN; 32];
        isa.load_i8(&bytes).store(&mut signed);
        for (signed, byte) in signed[..I::LANES].iter().zip(bytes) {
            assert_eq!(*signed, f32::from(byte as i8));
        }
        isa.splat(f32::NAN).store_bytes(&mut bytes);
        assert!(bytes[..I::LANES].iter().all(|byte| *byte == 0));
        vector.round().store_bytes(&mut bytes);
        for (byte, value) in bytes.iter().zip(lanes) {
            assert_eq!(*byte, value.round_ties_even() as i32 as u8, "{value}");
        }
    }
}

#[test]
fn moves_are_the_same_on_every_level() {
    let rows: Vec<[f32; 32]> = (0..32)
        .map(|k| std::array::from_fn(|i| ((k * 37 + i * 101) % 1009) as f32 * 0.5 - 250.0))
        .collect();
    Level::all().for_each(|level| level.dispatch(Moves(&rows)));
}

struct Round(f32);

impl Kernel for Round {
    type Output = [f32; 2];

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> [f32; 2] {
        let (mut small, mut wrapping) = ([0.0; 32], [0.0; 32]);
        isa.splat(self.0).round().store(&mut small);
        isa.splat(self.0).round_wrapping().store(&mut wrapping);
        [small[I::LANES - 1], wrapping[0]]
    }
}

#[test]
fn rounding() {
    for level in Level::all() {
        for (value, even) in [
            (0.5, 0.0),
            (1.5, 2.0),
            (2.5, 2.0),
            (-0.5, 0.0),
            (-2.5, -2.0),
            (0.499_999_97, 0.0),
            (-126.5, -126.0),
            (126.499_99, 126.0),
        ] {
            assert_eq!(level.dispatch(Round(value)), [even, even], "{value}");
        }
        for (value, wrapped) in [
            (f32::NAN, 0.0),
            (f32::INFINITY, -4_194_304.0),
            (-4_194_304.0, -4_194_304.0),
            (4_194_303.0, 4_194_303.0),
        ] {
            assert_eq!(level.dispatch(Round(value))[1], wrapped, "{value}");
        }
    }
}

struct PowerAndSum(f32);

impl Kernel for PowerAndSum {
    type Output = [f32; 2];

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> [f32; 2] {
        let power = isa.splat(self.0).power_of_two();
        [
            power.max_lane(),
            power.sum_lanes() / power.min_lane() / I::LANES as f32,
        ]
    }
}

#[test]
fn powers_of_two_and_sums() {
    for level in Level::all() {
        for exponent in [-126.0f32, -1.0, 0.0, 1.0, 100.0] {
            let expected = [exponent.exp2(), 1.0];
            assert_eq!(level.dispatch(PowerAndSum(exponent)), expected);
        }
    }
}

#[test]
fn levels_are_limited() {
    use crate::CpuLevel;
    let names: Vec<_> = Level::all().map(Level::name).collect();
    let baseline = match std::env::consts::ARCH {
        "x86_64" => "sse2",
        "aarch64" => "neon",
        _ => "scalar",
    };
    assert_eq!(names[0], "scalar");
    assert!(names.contains(&baseline));
    assert_eq!(Some(&Level::detect().name()), names.last());
    for (limit, name) in [
        (CpuLevel::Baseline, baseline),
        (CpuLevel::Avx2, "avx2"),
        (CpuLevel::Avx512, "avx512"),
    ] {
        // What is chosen is the limit where the machine has it, and as good as it otherwise.
        let chosen = Level::at_most(limit).name();
        assert_eq!(chosen == name, names.contains(&name), "{limit:?}: {chosen}");
        let possible = CpuLevel::from_code(limit as u8);
        assert_eq!(chosen, Level::at_most(possible).name(), "{limit:?}");
    }
}
