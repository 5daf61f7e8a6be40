use llm_quantize_plugin_api::kernels::Serial;
use ndarray::s;
use proptest::prelude::*;

use super::*;

struct Stored {
    shape: Shape,
    version: Version,
    qweight: Vec<u8>,
    qzeros: Vec<u8>,
    scales: Vec<u8>,
    g_idx: Option<Vec<u8>>,
}

impl Stored {
    fn of(shape: Shape, version: Version, solution: &Solution) -> Result<Self> {
        let mut qweight = vec![0xAA; shape.qweight_bytes().unwrap()];
        let mut qzeros = vec![0xAA; shape.zero_words() * shape.groups() * 4];
        let mut scales = vec![0xAA; shape.groups() * shape.outputs * 2];
        let outputs = [&mut qweight[..], &mut qzeros[..], &mut scales[..]];
        write(&Serial, &shape, version, solution, outputs)?;
        Ok(Self {
            shape,
            version,
            qweight,
            qzeros,
            scales,
            g_idx: None,
        })
    }

    fn packed(&self) -> Packed<'_> {
        Packed {
            shape: self.shape,
            version: self.version,
            qweight: &self.qweight,
            qzeros: &self.qzeros,
            scales: &self.scales,
            scale_type: ElementType::F16,
            g_idx: self.g_idx.as_deref(),
        }
    }
}

/// Four inputs (eight where words are longer) in two groups, and as many outputs as a word holds.
fn small(bits: u32) -> (Shape, Solution) {
    let (inputs, outputs) = match bits {
        8 => (4, 4),
        4 => (8, 8),
        2 => (16, 16),
        _ => (32, 32),
    };
    let shape = Shape {
        bits,
        inputs,
        outputs,
        group: inputs / 2,
    };
    let highest = (1u16 << bits) - 1;
    let solution = Solution {
        codes: Array2::from_shape_fn((outputs, inputs), |(n, k)| {
            ((n * 3 + k) as u16 & highest) as u8
        }),
        scales: Array2::from_shape_fn(
            (outputs, 2),
            |(n, g)| if g == 0 { 1.0 } else { -0.5 } * (n + 1) as f32,
        ),
        zeros: Array2::from_shape_fn((outputs, 2), |(n, g)| 1 + ((n + g) as u16 % highest) as u8),
    };
    (shape, solution)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.as_chunks().0.iter();
    words.map(|word| u32::from_le_bytes(*word)).collect()
}

/// Worked out by hand from the layout's table.
#[test]
fn the_words_are_those_of_the_format() {
    for (bits, first_qweight, first_qzeros) in [
        // Output 0 has the codes 0, 1, 2, …; the zeros 1, 2, 3, … of group 0 are stored as 0, 1, 2, ….
        (8, vec![0x0302_0100], vec![0x0302_0100]),
        (4, vec![0x7654_3210], vec![0x7654_3210]),
        // Codes and stored zeros 0, 1, 2, 3, and again; stored zeros 0, 1, 2, as three is the most.
        (2, vec![0xE4E4_E4E4], vec![0x2492_4924]),
        // Codes 0 to 7, four times: a stream of 24 bits that repeats. Stored zeros 0 to 6, and again.
        (
            3,
            vec![0x88FA_C688, 0xC688_FAC6, 0xFAC6_88FA],
            vec![0xD11A_C688, 0x6B1A_2358, 0x688D_6344],
        ),
    ] {
        let (shape, solution) = small(bits);
        let stored = Stored::of(shape, Version::V1, &solution).unwrap();
        let qweight = words(&stored.qweight);
        let column: Vec<u32> = qweight.iter().step_by(shape.outputs).copied().collect();
        assert_eq!(column, first_qweight, "{bits} bits: {column:x?}");
        let qzeros = words(&stored.qzeros);
        assert_eq!(
            qzeros[..first_qzeros.len()],
            first_qzeros,
            "{bits} bits: {qzeros:x?}"
        );
        // The second scale of the first row is that of output 1: 2.0, as half precision.
        assert_eq!(stored.scales[2..4], [0x00, 0x40]);
    }
}

#[test]
fn symmetric_zeros_are_the_words_that_loaders_expect() {
    for (bits, version, word) in [
        (4, Version::V1, 0x7777_7777u32),
        (4, Version::V2, 0x8888_8888),
        (8, Version::V1, 0x7F7F_7F7F),
        (8, Version::V2, 0x8080_8080),
        (2, Version::V1, 0x5555_5555),
        (2, Version::V2, 0xAAAA_AAAA),
    ] {
        let (shape, mut solution) = small(bits);
        solution.zeros.fill(1 << (bits - 1));
        let stored = Stored::of(shape, version, &solution).unwrap();
        assert!(
            words(&stored.qzeros).iter().all(|found| *found == word),
            "{bits} {version:?}"
        );
    }
    let (shape, mut solution) = small(3);
    solution.zeros.fill(4);
    let stored = Stored::of(shape, Version::V1, &solution).unwrap();
    // Threes in three bits: 011 011 …, from the low end.
    assert_eq!(
        words(&stored.qzeros)[..3],
        [0xDB6D_B6DB, 0xB6DB_6DB6, 0x6DB6_DB6D]
    );
}

#[test]
fn a_zero_of_zero_is_for_the_second_version() {
    let (shape, mut solution) = small(4);
    solution.zeros[[1, 0]] = 0;
    assert!(Stored::of(shape, Version::V1, &solution).is_err());
    let stored = Stored::of(shape, Version::V2, &solution).unwrap();
    assert_eq!(stored.packed().groups(1..2).unwrap().zeros[[0, 0]], 0.0);
}

#[test]
fn the_largest_stored_zero_of_the_first_version_is_one_more() {
    let (shape, solution) = small(8);
    let mut stored = Stored::of(shape, Version::V1, &solution).unwrap();
    stored.qzeros.fill(0xFF);
    assert_eq!(stored.packed().groups(0..1).unwrap().zeros[[0, 0]], 256.0);
}

#[test]
fn groups_may_be_permuted() {
    let (shape, solution) = small(4);
    let mut stored = Stored::of(shape, Version::V1, &solution).unwrap();
    let groups = [1u32, 0, 1, 0, 0, 0, 1, 1];
    stored.g_idx = Some(groups.iter().flat_map(|g| g.to_le_bytes()).collect());
    let packed = stored.packed();
    assert_eq!(packed.permutation().unwrap(), Some(groups.to_vec()));
    let mut row = [0.0; 8];
    packed.decode(2..3, &mut row).unwrap();
    for (input, number) in row.iter().enumerate() {
        let place = [2, groups[input] as usize];
        let steps = f32::from(solution.codes[[2, input]]) - f32::from(solution.zeros[place]);
        assert_eq!(*number, solution.scales[place] * steps);
    }
    // All zero says nothing, and neither does the order that is there anyway.
    for groups in [[0; 8], [0, 0, 0, 0, 1, 1, 1, 1u32]] {
        stored.g_idx = Some(groups.iter().flat_map(|g| g.to_le_bytes()).collect());
        assert_eq!(stored.packed().permutation(), Ok(None));
    }
}

#[test]
fn damaged_groups_are_refused() {
    let (shape, solution) = small(4);
    let mut stored = Stored::of(shape, Version::V1, &solution).unwrap();
    for (groups, what) in [
        (
            vec![0u32, 0, 0, 0, 1, 1, 1, 2],
            "input 7 into group 2, of 2",
        ),
        (vec![u32::MAX; 8], "group -1"),
        (vec![0; 7], "28 bytes for 8 inputs"),
    ] {
        stored.g_idx = Some(groups.iter().flat_map(|g| g.to_le_bytes()).collect());
        let error = stored.packed().decode(0..1, &mut [0.0; 8]).unwrap_err();
        assert!(error.message.contains(what), "{error}");
    }
}

#[test]
fn rows_that_are_not_there_are_refused() {
    let (shape, solution) = small(4);
    let stored = Stored::of(shape, Version::V1, &solution).unwrap();
    let packed = stored.packed();
    assert!(packed.decode(8..9, &mut [0.0; 8]).is_err());
    assert!(packed.decode(0..1, &mut [0.0; 9]).is_err());
    let short = Packed {
        scales: &stored.scales[..10],
        ..packed
    };
    assert!(short.decode(0..1, &mut [0.0; 8]).is_err());
}

proptest! {
    #[test]
    fn what_is_written_decodes_to_the_solution(
        bits in prop::sample::select(vec![2u32, 3, 4, 8]),
        version in prop::sample::select(Version::ALL.to_vec()),
        outputs in 1usize..5,
        groups in 1usize..4,
        seed in any::<u64>(),
    ) {
        let mut state = seed | 1;
        let mut next = |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u32 % below
        };
        let shape = Shape { bits, inputs: groups * 64, outputs: outputs * 32, group: 64 };
        let lowest = u32::from(version.lowest_zero());
        let solution = Solution {
            codes: Array2::from_shape_simple_fn((shape.outputs, shape.inputs), || next(1 << bits) as u8),
            scales: Array2::from_shape_simple_fn((shape.outputs, groups), || (next(2000) as f32 - 1000.5) / 1024.0),
            zeros: Array2::from_shape_simple_fn((shape.outputs, groups), || (lowest + next((1 << bits) - lowest)) as u8),
        };
        // Scales are numbers of half precision.
        let solution = Solution {
            scales: solution.scales.mapv(|s| float16::f16_to_f32(float16::f32_to_f16(s))),
            ..solution
        };
        let stored = Stored::of(shape, version, &solution).unwrap();
        let expected = solution.dequantize();
        let first = shape.outputs / 3;
        let mut decoded = vec![0.0; (shape.outputs - first) * shape.inputs];
        stored.packed().decode(first..shape.outputs, &mut decoded).unwrap();
        prop_assert!(decoded.iter().eq(expected.slice(s![first.., ..]).iter()));
    }
}
