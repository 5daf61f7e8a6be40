//! Our choices against those recorded from llama.cpp.

use super::super::*;
use crate::container::type_layout;

const GOLDEN: &str = include_str!("golden.txt");

/// A model of the file, with the lines of its levels.
struct Model<'a> {
    name: &'a str,
    facts: ModelFacts,
    options: MixtureOptions,
    tensors: Vec<(&'a str, Vec<u64>)>,
    levels: Vec<&'a str>,
}

fn models() -> Vec<Model<'static>> {
    let mut models: Vec<Model<'static>> = Vec::new();
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        match (words[0], models.last_mut()) {
            ("", _) => {}
            ("model", _) => models.push(Model {
                name: words[1],
                facts: facts(&words[2..]),
                options: MixtureOptions::default(),
                tensors: Vec::new(),
                levels: Vec::new(),
            }),
            ("options", Some(model)) => model.options = options(&words[1..]),
            ("tensor", Some(model)) => {
                let dims = words[2..].iter().map(|d| d.parse().unwrap()).collect();
                model.tensors.push((words[1], dims));
            }
            (_, model) => model.unwrap().levels.push(line),
        }
    }
    models
}

fn facts(words: &[&str]) -> ModelFacts {
    let mut facts = ModelFacts::default();
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "arch" => facts.architecture = value.to_owned(),
            "layers" => facts.layers = value.parse().unwrap(),
            "heads" => facts.heads = value.parse().unwrap(),
            "kv" => facts.kv_heads = value.parse().unwrap(),
            "experts" => facts.experts = value.parse().unwrap(),
            _ => panic!("unknown fact {word}"),
        }
    }
    facts
}

fn options(words: &[&str]) -> MixtureOptions {
    let mut options = MixtureOptions::default();
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let ty = || Some(BlockType::from_name(value).unwrap());
        match key {
            "output" => options.output_type = ty(),
            "embd" => options.token_embedding_type = ty(),
            "type" => {
                let wish = TypeOverride::parse(value).unwrap();
                options.tensor_types.push(wish);
            }
            "pure" => options.pure = true,
            "keep-output" => options.keep_output = true,
            _ => panic!("unknown option {word}"),
        }
    }
    options
}

fn letter(target: Target) -> char {
    let Target::Encode(ty) = target else {
        return 'F';
    };
    match ty {
        BlockType::F32 => 'F',
        BlockType::F16 => 'H',
        BlockType::BF16 => 'B',
        BlockType::Q8_0 => '8',
        BlockType::Q4_0 => 'a',
        BlockType::Q4_1 => 'b',
        BlockType::Q5_0 => 'c',
        BlockType::Q5_1 => 'd',
        BlockType::Q2_K => '2',
        BlockType::Q3_K => '3',
        BlockType::Q4_K => '4',
        BlockType::Q5_K => '5',
        BlockType::Q6_K => '6',
        BlockType::IQ4_NL => 'i',
        BlockType::IQ4_XS => 'x',
        BlockType::TQ1_0 => 't',
        BlockType::TQ2_0 => 'T',
        BlockType::MXFP4 => 'm',
    }
}

/// The line of a level as the file has it, from our choices.
fn chosen(model: &Model<'_>, level: &Level) -> String {
    let mut columns = Vec::new();
    let mut tensors = Vec::new();
    for (column, (name, dims)) in model.tensors.iter().enumerate() {
        let layers = if name.contains('*') {
            model.facts.layers
        } else {
            1
        };
        for layer in 0..layers {
            tensors.push((column, name.replace('*', &layer.to_string()), dims));
        }
        columns.push(String::new());
    }
    let sources: Vec<SourceTensor<'_>> = tensors
        .iter()
        .map(|(_, name, dims)| SourceTensor {
            name,
            dims,
            ty: type_layout(BlockType::F32),
        })
        .collect();
    let choices = choose_types(&sources, level, &model.facts, &model.options).unwrap();
    for ((column, _, _), choice) in tensors.iter().zip(&choices) {
        columns[*column].push(letter(choice.target));
    }
    let mut line = level.name.to_owned();
    for column in columns {
        let first = column.chars().next().unwrap();
        let alike = column.chars().all(|letter| letter == first);
        line.push(' ');
        line.push_str(if alike { &column[..1] } else { &column });
    }
    line
}

#[test]
fn choices_are_those_of_llama_cpp() {
    let models = models();
    assert_eq!(models.len(), 19);
    let mut compared = 0;
    for model in &models {
        for expected in &model.levels {
            let level = Level::find(expected.split(' ').next().unwrap()).unwrap();
            assert_eq!(chosen(model, level), *expected, "model {}", model.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 19 * 22);
}
