"`python -m resnet_course` is the command `resnet-course`"
# Written by hand: nbdev leaves files alone whose names begin with an underscore
from resnet_course.cli import main

if __name__ == '__main__': main()
