"""The taxonomy of pools that need no model."""

TAXONOMY = {
    "skills": [
        {
            "name": "sums",
            "description": "adding whole numbers",
            "examples": ["What is 2 plus 3?", "Calculate 4 + 9."],
        },
        {
            "name": "spanish",
            "description": "saying words and numbers in Spanish",
            "examples": ["How do you say the number 5 in Spanish?"],
        },
        {
            "name": "sorting",
            "description": "putting a list of numbers in order",
            "examples": ["Sort these numbers from smallest to largest: 3, 1, 2"],
        },
    ]
}
SKILLS = tuple(str(entry["name"]) for entry in TAXONOMY["skills"])
