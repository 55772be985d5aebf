"""Small benchmarks in the form of their published files, with questions that have known answers."""

import json
from pathlib import Path
from typing import Any

DOCVQA = {
    "dataset_name": "SP-DocVQA",
    "dataset_version": "1.0",
    "dataset_split": "val",
    "data": [
        {
            "questionId": 49153,
            "question": "What is the actual value per 1000?",
            "question_types": ["figure/diagram", "form"],
            "image": "documents/pybv0228_81.png",
            "docId": 14465,
            "ucsf_document_id": "pybv0228",
            "ucsf_document_page_no": "81",
            "answers": ["0.28"],
            "data_split": "val",
        },
        {
            "questionId": 24580,
            "question": "What is the name of the company?",
            "question_types": ["layout"],
            "image": "documents/nkbl0226_1.png",
            "docId": 7027,
            "answers": ["itc limited", "ITC Limited"],
            "data_split": "val",
        },
    ],
}
TEXTVQA = {
    "dataset_type": "val",
    "dataset_name": "textvqa",
    "dataset_version": "0.5.1",
    "data": [
        {
            "question": "what is the brand?",
            "image_id": "003a8ae2ef43b901",
            "image_width": 1024,
            "image_height": 664,
            "answers": ["nous"] * 7 + ["nous les gosses", "dakota", "dakota"],
            "question_tokens": ["what", "is", "the", "brand"],
            "question_id": 34602,
            "set_name": "val",
        }
    ],
}
CHARTQA = [
    {"imgname": "41699051005347.png", "query": "How many food items are shown?", "label": "14"},
    {"imgname": "41699051005347.png", "query": "Is the sum above 100?", "label": "No"},
]
SCANQA = [
    {
        "answers": ["on left side of table", "left"],
        "object_ids": [5],
        "object_names": ["chair"],
        "question": "Where is the chair?",
        "question_id": "val-scene0011-0",
        "scene_id": "scene0011_00",
    }
]
SQA3D_QUESTIONS = {
    "info": {},
    "questions": [
        {
            "scene_id": "scene0380_00",
            "situation": "Standing in front of the dustbin.",
            "alternative_situation": ["The dustbin is before me."],
            "question": "What color is the desk to my right?",
            "question_id": 220602000000,
        },
        {
            "scene_id": "scene0380_00",
            "situation": "I sit on the chair.",
            "alternative_situation": [],
            "question": "Where is it?",
            "question_id": 220602000001,
        },
    ],
}
SQA3D_ANNOTATIONS = {
    "info": {},
    "annotations": [
        {
            "scene_id": "scene0380_00",
            "question_type": "N/A",
            "answer_type": "other",
            "question_id": number,
            "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": 1}],
            "rotation": {},
            "position": {},
        }
        for number, answer in ((220602000001, "behind"), (220602000000, "brown"))
    ],
}
DIRECTIONS = ("object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard")


def vsi_line(number: int, kind: str, truth: str, options: list[str] | None) -> dict[str, Any]:
    return {
        "id": number,
        "dataset": "scannet",
        "scene_name": "scene0050_00",
        "question_type": kind,
        "question": f"Question {number}?",
        "ground_truth": truth,
        "options": options,
    }


VSIBENCH = [
    vsi_line(0, "object_counting", "4", None),
    vsi_line(1, "object_rel_distance", "B", ["A. sofa", "B. chair"]),
    vsi_line(2, DIRECTIONS[0], "A", ["A. left", "B. right"]),
    vsi_line(3, DIRECTIONS[2], "B", ["A. left", "B. right"]),
    vsi_line(4, DIRECTIONS[2], "A", ["A. left", "B. right"]),
]


PAGES = [
    {"page": 3, "image": "3.png", "text": "What is the total?", "answer": "$4.10", "kind": "money"},
    {"page": 3, "image": "3.png", "text": "Phone?", "answer": "", "kind": "absent", "box": None},
]


def write_benchmark(folder: Path, name: str) -> list[Path]:
    """The files of one benchmark as its authors publish them."""
    trees: dict[str, dict[str, Any]] = {
        "docvqa": {"val_v1.0.json": DOCVQA},
        "textvqa": {"TextVQA_0.5.1_val.json": TEXTVQA},
        "chartqa": {"test_human.json": CHARTQA, "test_augmented.json": CHARTQA[:1]},
        "scanqa": {"ScanQA_v1.0_val.json": SCANQA},
        "sqa3d": {
            "v1_balanced_questions_val_scannetv2.json": SQA3D_QUESTIONS,
            "v1_balanced_sqa_annotations_val_scannetv2.json": SQA3D_ANNOTATIONS,
        },
        "vsibench": {"test.jsonl": VSIBENCH},
        "pages": {"questions.jsonl": PAGES},
    }
    out = []
    for file, tree in trees[name].items():
        lines = [json.dumps(line) for line in tree] if file.endswith(".jsonl") else [json.dumps(tree)]
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
        out.append(folder / file)
    return out
